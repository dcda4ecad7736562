"""What an explanation is: which class of which image, by which method, the map, and how faithful it is."""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, UInt8

from vitrail.errors import ConfigError, nearest, shown
from vitrail.explanation.faithfulness import Faithfulness
from vitrail.explanation.methods import DEFAULT, METHODS
from vitrail.predictor import Ranked

Removal = Literal["tokens", "mean colour"]
BEST = "best"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is explained, and how.

    Args:
        method: a name of `METHODS`; or best: of those that need few passes, the one with the largest SRG on the first
            16 images.
        classes: names of the classes; empty: the predicted one, and the true one where it is known.
        against: another class, whose logit is subtracted: what speaks for one rather than the other. Where it is itself
            the class, the next most probable one takes its place.
        measure: whether faithfulness is measured, which takes most of the time.
    """

    method: str = DEFAULT
    classes: tuple[str, ...] = ()
    against: str | None = None
    measure: bool = True

    def __post_init__(self) -> None:
        known = (BEST, *METHODS)
        if self.method not in known:
            hint = nearest(self.method, known)
            raise ConfigError(
                "There is no such method.",
                got=shown(self.method),
                expected=", ".join(known),
                do=f"Perhaps you meant {hint}." if hint else None,
            )


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """One map: where in one image one class was read from.

    Args:
        path: what the image is called.
        label: the class.
        probability: that of the class, in [0, 1].
        against: the other class, if it is a comparison.
        method: name of the method.
        map: [rows, columns] of the patches; its scale means nothing, its order does. Signed methods: below 0 speaks
            against the class.
        top: the classes by falling probability.
        faithfulness: by the way in which patches are taken away; empty if it was not measured.
        outside: the share of the map's absolute values on class token and registers, which the picture cannot show.
        outliers: (row, column) of patches whose last token is more than three times as long as the median.
        image: what the model sees, [height, width, 3].
    """

    path: str
    label: str
    probability: float
    against: str | None
    method: str
    map: Float32[np.ndarray, "rows columns"] = field(repr=False)
    top: tuple[Ranked, ...]
    faithfulness: dict[Removal, Faithfulness]
    outside: float
    outliers: tuple[tuple[int, int], ...]
    image: UInt8[np.ndarray, "H W 3"] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Explanations:
    """Several maps by one method, and what holds for all of them.

    Args:
        items: image by image; those of one image follow each other.
        method: name of the method.
        srg: by the way in which patches are taken away: the mean over the maps.
        interval: where that mean lies with 95 % confidence, by drawing the maps anew; of fewer than two none.
        random_spread: standard deviation of the SRG of one image in a random order, whose mean is 0.
        compared: with best, the mean SRG of each method.
        engine: what was explained: torch in fp32, always.
        disagreements: how many images the engine of the predictor gives another class; None: it is the same engine.
    """

    items: tuple[Explanation, ...]
    method: str
    srg: dict[Removal, float] = field(default_factory=dict[Removal, float])
    interval: dict[Removal, tuple[float, float]] = field(default_factory=dict[Removal, tuple[float, float]])
    random_spread: dict[Removal, float] = field(default_factory=dict[Removal, float])
    compared: dict[str, float] = field(default_factory=dict[str, float])
    engine: str = "torch fp32"
    disagreements: int | None = None

    @property
    def is_signed(self) -> bool:
        """Whether values below 0 speak against the class."""
        return METHODS[self.method].is_signed

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader has to know."""
        found: list[str] = []
        if not METHODS[self.method].is_class_specific:
            found.append(f"{self.method}: the same map for every class")
        if "mean colour" in self.srg:
            found.append(
                "convolutional stem: its tokens have seen their neighbours, so patches were also painted with the mean "
                "colour"
            )
        if self.compared:
            found.append("the method was chosen by its SRG on these images, which flatters it a little")
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        """All but the maps and pictures, whose file names are there."""
        return {
            "method": self.method,
            "engine": self.engine,
            "disagreements": self.disagreements,
            "notes": list(self.notes),
            "compared": self.compared,
            "faithfulness": {
                kind: {"srg": srg, "interval": self.interval.get(kind), "random_spread": self.random_spread[kind]}
                for kind, srg in self.srg.items()
            },
            "explanations": [
                {
                    "path": one.path,
                    "label": one.label,
                    "probability": one.probability,
                    "against": one.against,
                    "grid": list(one.map.shape),
                    "image_size": list(one.image.shape[:2]),
                    "top": [vars(ranked) for ranked in one.top],
                    "faithfulness": {k: {**vars(f), "srg": f.srg} for k, f in one.faithfulness.items()},
                    "outside": one.outside,
                    "outliers": [list(place) for place in one.outliers],
                    "map": map_name(number),
                }
                for number, one in enumerate(self.items)
            ],
        }


def map_name(number: int) -> str:
    """The file of a map."""
    return f"map-{number:05d}.npy"
