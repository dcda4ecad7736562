"""How far two images are the same picture: correlation of small grey copies, wherever one lies over the other.

In: grey copies, 32x32, of both images of each pair. Out: two correlations a pair, of the pictures and of their
gradients, at the shift, mirroring and scale that suit best. Plain sky, sea and snow correlate as pictures without being
copies; their gradients do not.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, UInt8
from torch import Tensor

SIDE = 32
"""Of the grey copies, in pixels."""
_SHIFT = 2
_CORE = SIDE - 2 * _SHIFT
_ZOOM = 0.9
"""The second scale: the middle of one picture, nine tenths of its width, against all of the other."""
_WEIGHTS = (1 / 3, 2 / 3)
_AT_ONCE = 64
_FLAT = 1.5
"""Standard deviation, in grey levels of 255, that is added to that of a window, so that noise on an even surface
correlates with nothing."""


def likeness(
    first: UInt8[np.ndarray, "M 32 32"],
    second: UInt8[np.ndarray, "M 32 32"],
    *,
    on_pairs: Callable[[int], None] = lambda _: None,
) -> Float32[np.ndarray, "M 2"]:
    """Correlation in [-1, 1] of the pictures and of their gradients, where `score` is largest.

    Every shift of up to two pixels in both directions is tried, as it is and mirrored, at the same scale and with the
    middle of either picture enlarged.
    """
    found = np.zeros((len(first), 2), np.float32)
    for at in range(0, len(first), _AT_ONCE):
        one, other = (torch.from_numpy(grey[at : at + _AT_ONCE]) for grey in (first, second))
        found[at : at + _AT_ONCE] = _likeness(one, other)
        on_pairs(len(one))
    return found


def score(correlations: Float32[np.ndarray, "M 2"]) -> Float32[np.ndarray, "M"]:
    """One number a pair: gradients count twice, because horizons and plain backgrounds have hardly any."""
    return correlations @ np.array(_WEIGHTS, np.float32)


@torch.inference_mode()
def rough_likeness(
    first: UInt8[np.ndarray, "M 32 32"], second: UInt8[np.ndarray, "M 32 32"]
) -> Float32[np.ndarray, "M"]:
    """Correlation of the pictures alone at half the size, over the same shifts and mirrored: much less work."""
    found = np.zeros(len(first), np.float32)
    for at in range(0, len(first), _AT_ONCE):
        a, b = (
            F.avg_pool2d(torch.from_numpy(grey[at : at + _AT_ONCE]).float().unsqueeze(1), 2) for grey in (first, second)
        )
        middle = a[..., 1:-1, 1:-1]
        cores = torch.cat([middle, middle.flip(-1)], dim=1).flatten(2)
        windows = F.unfold(b, middle.shape[-1])
        cores, windows = cores - cores.mean(2, keepdim=True), windows - windows.mean(1, keepdim=True)
        found[at : at + len(a)] = _correlation(cores, windows, _FLAT / 2).amax((1, 2)).numpy()
    return found


@torch.inference_mode()
def _likeness(first: UInt8[Tensor, "M 32 32"], second: UInt8[Tensor, "M 32 32"]) -> Float32[np.ndarray, "M 2"]:
    a, b = (grey.float().unsqueeze(1) for grey in (first, second))
    plain = [turned for picture in (a, _enlarged(a)) for turned in (picture, picture.flip(-1))]
    found = torch.cat([_over_shifts(plain, b), _over_shifts(plain[:2], _enlarged(b))], dim=2).flatten(2)
    best = torch.tensordot(torch.tensor(_WEIGHTS), found, 1).argmax(1)
    return found.gather(2, best.expand(2, -1).unsqueeze(2)).squeeze(2).T.contiguous().numpy()


def _over_shifts(pictures: list[Float32[Tensor, "M 1 32 32"]], other: Float32[Tensor, "M 1 32 32"]) -> Tensor:
    """Correlations [picture or gradient, M, variant, shift] of the cores of some pictures with windows of another."""
    cores = torch.stack([_layers(p)[..., _SHIFT:-_SHIFT, _SHIFT:-_SHIFT] for p in pictures], dim=1)
    windows = F.unfold(_layers(other), _CORE).view(len(other), 3, _CORE**2, -1)
    cores = cores.flatten(3)
    grey = cores[:, :, 0] - cores[:, :, 0].mean(2, keepdim=True)
    there = windows[:, 0] - windows[:, 0].mean(1, keepdim=True)
    slopes, slopes_there = _level(cores[:, :, 1:], 3).flatten(2), _level(windows[:, 1:], 2).flatten(1, 2)
    return torch.stack([_correlation(grey, there, _FLAT), _correlation(slopes, slopes_there, _FLAT / 4)])


def _level(slopes: Tensor, axis: int) -> Tensor:
    """Slopes without the mean of each row of pixels, which `axis` has: no horizon, no sky that gets brighter."""
    rows = slopes.unflatten(axis, (_CORE, _CORE))
    return (rows - rows.mean(axis + 1, keepdim=True)).flatten(axis, axis + 1)


def _correlation(cores: Tensor, windows: Tensor, flat: float) -> Tensor:
    """Cosines [M, variant, shift]; `flat` a value is added to each length."""
    added = flat * _CORE
    lengths = (cores.norm(dim=2) + added).unsqueeze(2) * (windows.norm(dim=1) + added).unsqueeze(1)
    return torch.bmm(cores, windows) / lengths


def _layers(picture: Float32[Tensor, "M 1 32 32"]) -> Float32[Tensor, "M 3 32 32"]:
    """The picture, and its slopes in both directions after a slight blur, which JPEG leaves alone."""
    smooth = F.avg_pool2d(F.pad(picture, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    wide = F.pad(smooth, (1, 1, 1, 1), mode="replicate")
    across, down = wide[..., 1:-1, 2:] - wide[..., 1:-1, :-2], wide[..., 2:, 1:-1] - wide[..., :-2, 1:-1]
    return torch.cat([picture, across, down], dim=1)


def _enlarged(picture: Float32[Tensor, "M 1 32 32"]) -> Float32[Tensor, "M 1 32 32"]:
    scale = torch.tensor([[_ZOOM, 0, 0], [0, _ZOOM, 0]]).expand(len(picture), 2, 3)
    grid = F.affine_grid(scale, [len(picture), 1, SIDE, SIDE], align_corners=False)
    return F.grid_sample(picture, grid, mode="bilinear", padding_mode="border", align_corners=False)
