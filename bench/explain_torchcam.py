"""Explaining beside TorchCAM, where both can: LeGrad and Grad-CAM on torchvision's ViT-B/16 with the same weights.

    PYTHONPATH=src:. python bench/explain_torchcam.py [--rounds 5] [--smoke]

Seconds an image at 224, batch 1, fp32, in turn; the maps' largest difference over the largest value. Needs torchcam.
Out: Markdown, explain_torchcam.json in bench/results.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

import tests.support.torchvision_operators  # noqa: F401  (before torchvision)

# isort: split
import torch
from results_file import Results
from torch import Tensor
from torchcam import methods
from torchvision.models.vision_transformer import VisionTransformer

from tests.support.random_vit import random_vit
from vitrail.explanation.methods import grad_cam, legrad
from vitrail.explanation.trace import Target, embed
from vitrail.weights.families import torchvision as family


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="a tiny model, nothing saved")
    args = parser.parse_args()
    size, patch, width, depth, heads = (32, 8, 32, 2, 4) if args.smoke else (224, 16, 768, 12, 12)
    ours = random_vit(
        image_size=size, patch_size=patch, hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads,
        num_labels=10, layer_norm_eps=1e-6,
    )  # fmt: skip
    theirs = VisionTransformer(size, patch, depth, heads, width, 4 * width, num_classes=10).eval()
    theirs.load_state_dict(family.TABLE.write(ours.state_dict()))
    images, side = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0)), size // patch
    target = Target(torch.tensor([1]))

    def score(tokens: Tensor) -> Tensor:
        return theirs.heads(theirs.encoder.ln(tokens)[:, 0])

    def their_legrad() -> Tensor:
        with methods.LeGrad(theirs, list(theirs.encoder.layers), score_projection=score) as extractor:
            return extractor([1], theirs(images), normalized=False)[0]

    def their_grad_cam() -> Tensor:
        def as_map(tokens: Tensor) -> Tensor:
            return tokens[:, 1:].transpose(1, 2).unflatten(2, (side, side))

        layer = theirs.encoder.layers[-1].ln_1
        with methods.GradCAM(theirs, target_layer=layer, reshape_transform=as_map) as extractor:
            return extractor([1], theirs(images), normalized=False)[0]

    def mine(method: Callable[..., Tensor]) -> Tensor:
        return method(ours, embed(ours, images), target).detach()[:, 1:].unflatten(1, (side, side))

    results = Results("explain_torchcam", device=torch.device("cpu"), keep=not args.smoke)
    rows = results.answer["rows"] = []
    print("| method | vitrail, s | TorchCAM, s | ratio | difference of the maps |\n|---|---|---|---|---|")
    for name, method, other in (("legrad", legrad, their_legrad), ("grad-cam", grad_cam, their_grad_cam)):
        a, b = mine(method), other()
        difference = float((a - b).abs().max() / b.abs().max())
        times: dict[str, list[float]] = {"vitrail": [], "torchcam": []}
        for _ in range(1 if args.smoke else args.rounds):
            for who, work in (("vitrail", lambda m=method: mine(m)), ("torchcam", other)):
                began = time.perf_counter()
                work()
                times[who].append(time.perf_counter() - began)
        first, second = (sorted(found)[len(found) // 2] for found in times.values())
        rows.append({"method": name, "difference": difference, **times})
        print(f"| {name} | {first:.3f} | {second:.3f} | {second / first:.2f} | {difference:.1e} |")
    results.end()


if __name__ == "__main__":
    main()
