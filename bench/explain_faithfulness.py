"""How faithful the maps of `vitrail explain` are: the shipped models, on images of CIFAR-100's test set.

    python bench/explain_faithfulness.py [--images 200] [--skip 200] [--methods removal-gradient ...] [--keep-nothing]

Images that the model gets right with a probability above .5, in the order of the data; the first --skip of them are
those on which the default method was chosen. For each method: MoRF, LeRF and SRG with patches left out, SRG with
patches painted with the mean colour, and the grid pointing game (arXiv:2104.00032): the share of what speaks for a
class that lies in its cell of a mosaic of four images, which is .25 by chance.
"""

import argparse
from typing import Any

import numpy as np
import torch
from results_file import Results
from torch import Tensor

from vitrail import Predictor, data
from vitrail.augment import prepare
from vitrail.config import DataConfig
from vitrail.explanation.faithfulness import Answers, faithfulness, random_srg, with_mean_colour, without_tokens
from vitrail.explanation.methods import METHODS
from vitrail.explanation.trace import Target, embed, grid_of
from vitrail.model import ViT
from vitrail.statistics import bootstrap

AT_ONCE, MOSAICS = 50, 100


def confident_images(predictor: Predictor, skip: int, count: int) -> tuple[Tensor, Tensor]:
    """Normalised images that the model is right about, and their classes."""
    classes = predictor.card.classes
    test = data.load(DataConfig(spec="cifar100"), ("test",), classes=classes, preprocessing=predictor.preprocessing)[
        "test"
    ]
    first = min(len(test), 4 * (skip + count))
    images = prepare(torch.from_numpy(np.asarray(test.images[:first])), predictor.preprocessing)
    labels = torch.from_numpy(np.asarray(test.labels[:first]))
    with torch.inference_mode():
        probabilities = predictor.model(images)["logits"].softmax(1)
    good = (probabilities.argmax(1) == labels) & (probabilities.amax(1) > 0.5)
    chosen = good.nonzero()[skip : skip + count, 0]
    return images[chosen].clone(), labels[chosen].clone()


def maps_of(model: ViT, images: Tensor, target: Target, method: str) -> Tensor:
    """The map of each image, [B, patches]."""
    rows, columns = grid_of(model, (images.shape[2], images.shape[3]))
    return METHODS[method].row(model, embed(model, images), target).detach()[:, -rows * columns :]


def mosaics(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mosaics of four images of four classes, and the class of each cell."""
    draw = torch.Generator().manual_seed(1)
    found: list[Tensor] = []
    while len(found) < MOSAICS:
        four = torch.randint(len(images), (4,), generator=draw)
        if len(set(labels[four].tolist())) == 4:
            found.append(four)
    numbers = torch.stack(found)
    a, b, c, d = (images[numbers[:, i]] for i in range(4))
    return torch.cat((torch.cat((a, b), 3), torch.cat((c, d), 3)), 2), labels[numbers]


def pointing(model: ViT, images: Tensor, classes: Tensor, method: str) -> float:
    """The share of positive values in the right cell."""
    rows, columns = grid_of(model, (images.shape[2], images.shape[3]))
    shares: list[Tensor] = []
    for cell in range(4):
        positive = maps_of(model, images, Target(classes[:, cell]), method).clamp(min=0)
        cells = positive.unflatten(1, (2, rows // 2, 2, columns // 2)).sum((2, 4)).flatten(1)
        shares.append(cells[:, cell] / cells.sum(1).clamp(min=1e-12))
    return float(torch.cat(shares).mean())


def figures(values: list[float]) -> dict[str, Any]:
    rows = np.array(values)
    low, high = bootstrap(lambda chosen: float(rows[chosen].mean()), len(rows))
    return {"srg": float(rows.mean()), "interval": [low, high]}


def measure(model: ViT, images: Tensor, labels: Tensor, method: str) -> dict[str, Any]:
    """MoRF, LeRF and SRG of a method, for both ways of taking patches away."""
    kept: dict[str, list[Any]] = {"tokens": [], "mean colour": []}
    for start in range(0, len(images), AT_ONCE):
        part, target = images[start : start + AT_ONCE], Target(labels[start : start + AT_ONCE])
        grid = grid_of(model, (part.shape[2], part.shape[3]))
        ways: dict[str, Answers] = {
            "tokens": without_tokens(model, embed(model, part)),
            "mean colour": with_mean_colour(model, part, grid),
        }
        found = None if method == "random" else maps_of(model, part, target, method)
        for kind, answers in ways.items():
            if found is None:
                kept[kind] += random_srg(answers, grid[0] * grid[1], 5, target, seed=start).mean(1).tolist()
            else:
                kept[kind] += faithfulness(answers, found, target)
    if method == "random":
        return {kind: figures(values) for kind, values in kept.items()}
    return {
        kind: {
            **figures([one.srg for one in values]),
            "morf": float(np.mean([one.morf for one in values])),
            "lerf": float(np.mean([one.lerf for one in values])),
        }
        for kind, values in kept.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--skip", type=int, default=200)
    parser.add_argument("--methods", nargs="+", default=["random", *METHODS])
    parser.add_argument("--keep-nothing", action="store_true", help="leave no file")
    args = parser.parse_args()
    results = Results("explain_faithfulness", keep=not args.keep_nothing)
    for name in ("builtin:cifar100", "builtin:cifar100-conv"):
        predictor = Predictor(name)
        images, labels = confident_images(predictor, args.skip, args.images)
        large, classes = mosaics(images, labels)
        for method in args.methods:
            with results.part(f"{name} {method}") as answer:
                row = measure(predictor.model, images, labels, method)
                if method not in ("random", "occlusion"):
                    row["mosaic"] = pointing(predictor.model, large, classes, method)
                answer.setdefault(name, {"images": len(images), "methods": {}})["methods"][method] = row
                tokens, colour = row["tokens"], row["mean colour"]
                print(
                    f"{name:22} {method:17} MoRF {tokens.get('morf', float('nan')):.3f}  "
                    f"LeRF {tokens.get('lerf', float('nan')):.3f}  SRG {tokens['srg']:.3f} "
                    f"[{tokens['interval'][0]:.3f}, {tokens['interval'][1]:.3f}]  mean colour {colour['srg']:.3f}  "
                    f"mosaic {row.get('mosaic', float('nan')):.3f}",
                    flush=True,
                )
    results.end()


if __name__ == "__main__":
    main()
