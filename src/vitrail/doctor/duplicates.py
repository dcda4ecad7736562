"""Pairs of images that are the same picture, or nearly, and groups of them.

Candidates are the nearest in the model's features and in an 8x8 grey copy that mirroring does not change: each finds
pairs that the other misses. `likeness` decides.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from vitrail.doctor.likeness import likeness, rough_likeness, score
from vitrail.doctor.pictures import Pictures, nearest
from vitrail.progress import Bar

NEAR, SIMILAR = 0.82, 0.77
"""Scores from which on two images are taken for the same shot, and for alike; by eye on CIFAR-10 and CIFAR-100."""
_USUAL, _SMALLEST = 4, 1 / 3
"""Where all images are alike, as handwritten digits are, the same shot has to be closer. The usual score of an image
with its fourth best candidate, which is hardly a copy, lacks something to 1; a copy lacks at most a third of that."""
MOST_IN_GROUP = 50
"""A chain of near pairs ends here: in a long one the ends have nothing in common."""
_NEIGHBOURS = 5
_ROUGH = 0.65
"""Correlation at half the size below which hardly a pair was near."""
_BLOCK = 20_000


@dataclass(frozen=True)
class Pair:
    """Two images, by index, the first one before the second.

    Args:
        score: in [-1, 1], from the correlations of the pictures and of their gradients.
        level: near (the same shot) or similar.
    """

    first: int
    second: int
    picture: float
    gradient: float
    score: float
    level: str


def find_pairs(
    pictures: Pictures, feature_neighbours: Int64[np.ndarray, "N k"], *, progress: bool = False
) -> list[Pair]:
    """Near and similar pairs among all images, the most alike first; equal ones are among them.

    Args:
        pictures: the images.
        feature_neighbours: the nearest of each by the model's features, the nearest first.
    """
    with Bar(len(pictures), title="pictures alike", enabled=progress) as bar:
        alike, _ = nearest(_without_side(_coarse(pictures.grey)), _NEIGHBOURS, on_block=bar.advance)
    first, second = _candidates(len(pictures), [feature_neighbours[:, :_NEIGHBOURS], alike])
    with Bar(len(first), unit="pairs", title="pairs compared roughly", enabled=progress) as bar:
        keep = np.zeros(len(first), bool)
        for at in range(0, len(first), _BLOCK):
            one, other = first[at : at + _BLOCK], second[at : at + _BLOCK]
            keep[at : at + _BLOCK] = rough_likeness(pictures.grey[one], pictures.grey[other]) >= _ROUGH
            bar.advance(len(one))
    first, second = first[keep], second[keep]
    correlations = np.zeros((len(first), 2), np.float32)
    with Bar(len(first), unit="pairs", title="pairs compared", enabled=progress) as bar:
        for at in range(0, len(first), _BLOCK):
            part = slice(at, at + _BLOCK)
            grey = pictures.grey[first[part]], pictures.grey[second[part]]
            correlations[part] = likeness(*grey, on_pairs=bar.advance)
    scores = score(correlations)
    near, similar = _thresholds(len(pictures), first, second, scores)
    return [
        Pair(
            *(int(first[i]), int(second[i])),
            *map(float, (*correlations[i], scores[i])),
            level="near" if scores[i] >= near else "similar",
        )
        for i in np.argsort(-scores, kind="stable")
        if scores[i] >= similar
    ]


def _thresholds(
    count: int, first: Int64[np.ndarray, "M"], second: Int64[np.ndarray, "M"], scores: Float32[np.ndarray, "M"]
) -> tuple[float, float]:
    """Scores of near and of similar pairs in this data set."""
    images, both = np.concatenate([first, second]), np.concatenate([scores, scores])
    order = np.lexsort((-both, images))
    starts = np.searchsorted(images[order], np.arange(count)) + _USUAL - 1
    has = starts < np.searchsorted(images[order], np.arange(count), side="right")
    fourth = np.zeros(count, np.float32)
    fourth[has] = both[order][starts[has]]
    missing = 1 - float(np.median(fourth)) if count else 1.0
    near = max(NEAR, 1 - _SMALLEST * missing)
    return near, max(SIMILAR, 1 - (1 - near) * (1 - SIMILAR) / (1 - NEAR))


def group(
    count: int, certain: Iterable[tuple[int, int]], links: Iterable[tuple[int, int]] = (), most: int = MOST_IN_GROUP
) -> Int64[np.ndarray, "N"]:
    """The smallest index of the group of each of `count` things.

    Args:
        count: how many there are.
        certain: links that are always made.
        links: others, the surest first; one that makes a group larger than `most` is left out.
        most: of these groups.
    """
    parent, size = list(range(count)), [1] * count

    def root(at: int) -> int:
        while parent[at] != at:
            parent[at] = at = parent[parent[at]]
        return at

    for ends, limit in (*((ends, count) for ends in certain), *((ends, most) for ends in links)):
        low, high = sorted(map(root, ends))
        if low != high and size[low] + size[high] <= limit:
            parent[high] = low
            size[low] += size[high]
    return np.array([root(at) for at in range(count)], np.int64)


def _candidates(
    count: int, neighbours: Sequence[Int64[np.ndarray, "N k"]]
) -> tuple[Int64[np.ndarray, "M"], Int64[np.ndarray, "M"]]:
    """Each pair of neighbours once, the smaller index first."""
    keys = [
        np.minimum(own, others) * count + np.maximum(own, others)
        for found in neighbours
        for own, others in [(np.repeat(np.arange(count), found.shape[1]), found.ravel())]
    ]
    every = np.unique(np.concatenate(keys))
    return every // max(count, 1), every % max(count, 1)


def _coarse(grey: UInt8[np.ndarray, "N 32 32"]) -> Float32[np.ndarray, "N 8 8"]:
    """Means of 4x4 pixels, without the overall brightness; low contrast counts for less."""
    small = grey.reshape(-1, 8, 4, 8, 4).mean((2, 4), dtype=np.float32)
    small -= small.mean((1, 2), keepdims=True)
    return small / (np.linalg.norm(small, axis=(1, 2), keepdims=True) + 16)


def _without_side(coarse: Float32[np.ndarray, "N 8 8"]) -> Float32[np.ndarray, "N 64"]:
    """The same for an image and its mirror image: what both have in common, and the size of what they have not."""
    mirrored = coarse[:, :, ::-1]
    halves = (coarse + mirrored)[:, :, :4], np.abs(coarse - mirrored)[:, :, :4]
    return np.concatenate([half.reshape(len(coarse), -1) for half in halves], axis=1)
