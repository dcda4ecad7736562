"""At which learning rate are the last blocks of a pretrained model trained, and how many of them?

    python bench/last_blocks.py WEIGHTS [--data cifar10] [--images 5000] [--val 1000] [--image-size 98] [--epochs 3]
        [--rates 1e-4 3e-4 1e-3] [--blocks 3] [--flip 0.5] [--out DIR]

The recipe finetune-last with one peak learning rate after the other, each from the same linear probe. The tokens that
go into the trained blocks are computed once, those of the images that the rates are compared on too, so that a trial
costs no more than the blocks themselves. The images of both sets are drawn from the training set; nothing is measured
on the test set. Prints accuracy and loss of the weights after the last step, and of their average.
"""

import argparse
import copy
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from results_file import Results
from torch import Tensor

from vitrail import data, recipes
from vitrail.config import AugmentConfig, Preprocessing, RunConfig
from vitrail.data import ImageSet
from vitrail.distributed import World
from vitrail.model import ViT
from vitrail.training import transfer
from vitrail.training.inputs import Inputs
from vitrail.training.linear_kernels import choose_linear_kernels
from vitrail.training.optim import build_optimizers
from vitrail.training.schedule import lr_factor, timetable
from vitrail.training.step import TrainStep
from vitrail.training.transfer.probe import Features, fit_linear, put_in, sample
from vitrail.training.transfer.trainable import first_block

BATCH = 64


def settings(args: argparse.Namespace, num_blocks: int) -> RunConfig:
    """The recipe on these weights, images whole."""
    config = transfer.with_weights(recipes.get("finetune-last"), args.weights)
    return replace(
        config,
        data=replace(config.data, spec=args.data, batch_size=BATCH, image_size=args.image_size, resize_size=0),
        augment=AugmentConfig(flip=args.flip),
        optim=replace(config.optim, train_last=num_blocks),
        schedule=replace(config.schedule, epochs=args.epochs, min_steps=0),
    )


def cached(config: RunConfig, model: ViT, images: ImageSet, preprocessing: Preprocessing) -> transfer.CachedTokens:
    """Their tokens, computed unless they are there."""
    cache, started = transfer.TokenCache(config, model, images, preprocessing, linear="onednn"), time.perf_counter()
    found = cache.find() or cache.compute(lambda count: None)
    print(f"{cache.line()}, {time.perf_counter() - started:.0f} s", flush=True)
    return found


@torch.inference_mode()
def features(model: ViT, first: int, tokens: transfer.CachedTokens) -> Tensor:
    """What the classifier sees of each image that is not mirrored."""
    images = tokens.examples.images
    parts = (torch.from_numpy(np.ascontiguousarray(images[at : at + BATCH, 0])) for at in range(0, len(images), BATCH))
    return torch.cat([model.pool(model.features_from(first, part.float())) for part in parts])


def measured(model: ViT, first: int, tokens: transfer.CachedTokens) -> dict[str, float]:
    """Accuracy and loss of a model."""
    labels = torch.from_numpy(tokens.examples.labels)
    with torch.inference_mode():
        logits = model.eval().head(features(model, first, tokens))
        right = (logits.argmax(1) == labels).double().mean()
        return {"accuracy": round(float(right), 4), "loss": round(float(F.cross_entropy(logits, labels)), 4)}


def trained(config: RunConfig, start: ViT, train: ImageSet, tokens: transfer.CachedTokens) -> TrainStep:
    """Train a copy of a model as a run does."""
    model, world = copy.deepcopy(start), World()
    linear = choose_linear_kernels(config.compute, model, BATCH).by
    optimizers = build_optimizers(model, config.optim, len(train))
    part = transfer.LastBlocks(model, config.optim.train_last)
    step = TrainStep(model, optimizers, config.optim, config.compute, config.seed, part=part, linear=linear)
    inputs = Inputs(config, data.preprocessing_for(config.data), train, world)
    inputs.tokens = tokens
    times, number = timetable(config, len(train)), 0
    for epoch in range(times.epochs):
        transfer.to_training(model, config.optim, 0.0)
        for at, batch in enumerate(inputs.batches(epoch, 0, torch.device("cpu"))):
            given = inputs(batch, epoch, at, times.size_of(number), 1.0)
            factor = lr_factor(number, times.schedule_steps, times.warmup_steps, config.schedule)
            step(given.images, given.targets, number, factor)
            number += 1
    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("weights", help="as vitrail finetune takes them")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--images", type=int, default=5000, help="to train on")
    parser.add_argument("--val", type=int, default=1000, help="to compare on")
    parser.add_argument("--image-size", type=int, default=98)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-4, 3e-4, 1e-3])
    parser.add_argument("--blocks", type=int, nargs="+", default=[3])
    parser.add_argument("--flip", type=float, default=0.5)
    parser.add_argument("--out", type=Path, help="another folder for the result")
    args = parser.parse_args()
    results = Results("last_blocks", out=args.out)
    results.answer |= {name: vars(args)[name] for name in ("images", "val", "image_size", "epochs", "flip")}
    rows = results.answer.setdefault("rows", [])
    for num_blocks in args.blocks:
        config = settings(args, num_blocks)
        sets, preprocessing = data.load(config.data, ("train", "val")), data.preprocessing_for(config.data)
        train, held_out = (sample(sets[s], n, 0) for s, n in (("train", args.images), ("val", args.val)))
        model, _ = transfer.initial_model(config, preprocessing, train.classes, resume=False)
        transfer.prepare(model, config.optim)
        model.eval()
        first = first_block(model, config.optim)
        tokens = cached(config, model, train, preprocessing)
        compared = cached(replace(config, augment=AugmentConfig()), model, held_out, preprocessing)
        seen = Features(features(model, first, tokens).numpy(), np.asarray(train.labels))
        put_in(model, fit_linear(seen, len(train.classes), config.seed))

        def tell(row: dict[str, object]) -> None:
            rows.append(row)
            results.write()
            print(" | ".join(f"{name} {value}" for name, value in row.items()), flush=True)

        tell({"blocks": num_blocks, "lr": 0.0, "weights": measured(model, first, compared)})
        for rate in args.rates:
            started = time.perf_counter()
            step = trained(replace(config, optim=replace(config.optim, lr=rate)), model, train, tokens)
            seconds = round(time.perf_counter() - started, 1)
            average = {"average": measured(step.average.model, first, compared)} if step.average else {}
            last = measured(step.model, first, compared)
            tell({"blocks": num_blocks, "lr": rate, "seconds": seconds, "weights": last, **average})
    results.end()


if __name__ == "__main__":
    main()
