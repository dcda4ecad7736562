"""The data doctor on CIFAR-10 and CIFAR-100: as they are, with planted copies, with flipped labels.

    python bench/doctor_cifar.py [--sheets DIR] [--labels-model MODEL --labels-size 112]

About half an hour on two quiet cores. Writes bench/results/doctor_cifar.json, and with --sheets pictures of the first
pairs, to be looked at and counted: what is a copy only eyes can tell.
"""

import argparse
import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageEnhance

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import vitrail
from bench.results_file import RESULTS, machine, save
from vitrail import data, doctor, weights
from vitrail.config import DataConfig
from vitrail.data.sources import Source
from vitrail.data.sources.index import array_split
from vitrail.doctor.duplicates import find_pairs
from vitrail.doctor.labels import doubt, out_of_fold, votes
from vitrail.doctor.pictures import look, nearest, standard

MODEL = "builtin:cifar100-conv"
NUM_COPIES, NUM_FLIPPED, NUM_LABELS = 200, 250, 5000


def changed(pixels: np.ndarray, kind: int) -> np.ndarray:
    """A copy of an image [32, 32, 3], changed in one of five ways."""
    image = Image.fromarray(pixels)
    if kind == 0:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=50)
        image = Image.open(buffer)
    if kind == 1:
        return np.pad(pixels, ((2, 0), (0, 2), (0, 0)), mode="edge")[:32, 2:]
    if kind == 2:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if kind == 3:
        image = image.resize((32, 32), Image.Resampling.BICUBIC, box=(1.6, 1.6, 30.4, 30.4))
    if kind == 4:
        image = ImageEnhance.Brightness(image).enhance(0.7)
    return np.asarray(image)


def planted() -> dict[str, Any]:
    """Copies among the test images of CIFAR-10, equal and changed ones."""
    images = vitrail.load_data("cifar10", ["test"])["test"]
    originals = images.images.transpose(0, 2, 3, 1)
    chosen = np.random.default_rng(0).permutation(len(originals))[: NUM_COPIES + 20]
    copies = [changed(originals[at], number % 5) for number, at in enumerate(chosen[:NUM_COPIES])]
    pixels = np.concatenate([originals, np.array(copies), originals[chosen[NUM_COPIES:]]])
    labels = np.concatenate([images.labels, images.labels[chosen]])
    split = array_split(pixels, labels, [f"image {i}" for i in range(len(pixels))])
    source = Source("planted", images.classes, {"test": split}, "")
    model, card = weights.load(MODEL)
    pictures = look(source, model.eval(), card.preprocessing, batch_size=256, progress=True)
    pairs = find_pairs(pictures, nearest(standard(pictures.features), 10)[0], progress=True)
    places = {int(at): len(originals) + number for number, at in enumerate(chosen)}
    right = [places.get(pair.first) == pair.second for pair in pairs]
    equal = [i for i, pair in enumerate(pairs) if right[i] and pair.second >= len(originals) + NUM_COPIES]
    others = [i for i in range(len(pairs)) if i not in set(equal)]
    found = {pair.second for pair, is_right in zip(pairs, right, strict=True) if is_right and pair.level == "near"}
    by_kind = [
        len([s for s in found if s < len(originals) + NUM_COPIES and (s - len(originals)) % 5 == k]) for k in range(5)
    ]
    return {
        "copies": NUM_COPIES,
        "equal": 20,
        "equal_found": len(equal),
        "near_recall": sum(by_kind) / NUM_COPIES,
        "near_recall_of_jpeg50_shift2_mirror_crop90_brightness70": [count / (NUM_COPIES // 5) for count in by_kind],
        "planted_among_first_200": float(np.mean([right[i] for i in others[:NUM_COPIES]])),
        "not_planted_among_first_200": [
            [pairs[i].first, pairs[i].second, round(pairs[i].score, 3)] for i in others[:NUM_COPIES] if not right[i]
        ],
    }


def flipped(model_name: str, size: int | None) -> dict[str, Any]:
    """How high 5 % flipped labels of CIFAR-10 are ranked."""
    from sklearn.metrics import average_precision_score

    generator = np.random.default_rng(0)
    images = vitrail.load_data("cifar10", ["train"])["train"]
    chosen = generator.permutation(len(images))[:NUM_LABELS]
    flips, labels = np.zeros(NUM_LABELS, bool), images.labels[chosen].copy()
    flips[generator.permutation(NUM_LABELS)[:NUM_FLIPPED]] = True
    labels[flips] = (labels[flips] + generator.integers(1, 10, NUM_FLIPPED)) % 10
    some = replace(images, images=images.images[chosen], labels=labels, ids=chosen, names=[""] * NUM_LABELS)
    if size is not None:
        squares = torch.from_numpy(some.images).float()
        large = torch.nn.functional.interpolate(squares, (size, size), mode="bicubic", antialias=True)
        some = replace(some, images=large.round().clamp(0, 255).byte().numpy())
    rows = vitrail.features(model_name, some, image_size=size, batch_size=100)
    groups = np.arange(NUM_LABELS)
    p = out_of_fold(rows, labels, groups)
    share = votes(labels, groups, nearest(standard(rows), 10)[0], 10)
    return {
        "images": NUM_LABELS,
        "flipped": NUM_FLIPPED,
        "average_precision": float(average_precision_score(flips, doubt(p, share, labels))),
        "accuracy_on_unflipped": float((p.argmax(1) == labels)[~flips].mean()),
    }


def as_it_is(name: str, sheets: Path | None) -> dict[str, Any]:
    """What is found in a data set, and the first pairs as a picture."""
    source, exact = data.open_source(DataConfig(spec=name)), data.check(DataConfig(spec=name), progress=True)
    model, card = weights.load(MODEL)
    found = doctor.examine(source, exact, model.eval(), card.preprocessing, batch_size=256, progress=True)
    if sheets is not None:
        doctor.write_gallery(sheets / f"{name}.html", source, exact, found)
    leaks, seen = [], set()
    for pair in found["leaks"] + [p for p in found["similar"] if p["first"]["split"] != p["second"]["split"]]:
        if pair["second"]["position"] not in seen:
            seen.add(pair["second"]["position"])
            leaks.append(pair)
    if sheets is not None:
        for start in range(0, min(len(leaks), 600), 50):
            draw(source, leaks[start : start + 50], start).save(sheets / f"{name}-leaks-{start:03}.png")
    same = [pair["first"]["class"] == pair["second"]["class"] for pair in leaks]
    between = [sum(name.startswith("test:") for name in group) for group in exact["leaks"]]
    return {
        "equal_pixels": {
            "test_images_in_train": sum(between),
            "of_them_in_another_class": sum(
                count for count, group in zip(between, exact["leaks"], strict=True) if group in exact["conflicts"]
            ),
            "groups_with_several_classes": len(exact["conflicts"]),
            **{f"extra_copies_in_{s}": sum(len(g) - 1 for g in c["duplicates"]) for s, c in exact["splits"].items()},
        },
        "kinds": found["kinds"],
        "label_accuracy": found["label_accuracy"],
        "near_or_similar_leaks_same_class": {
            f"{a} to {b}": round(float(np.mean(same[a:b])), 4)
            for a, b in ((0, 150), (150, 300), (300, 500))
            if same[a:b]
        },
        "score_of_leak_number": {str(n): leaks[n - 1]["score"] for n in (150, 300, 500) if n <= len(leaks)},
        "most_suspected": most_suspected(found["suspects"]),
    }


def most_suspected(suspects: list[dict[str, Any]]) -> dict[str, int]:
    """The five most common pairs of classes, whichever way, among the first 500 suspects."""
    counts: dict[str, int] = {}
    for one in suspects[:500]:
        key = " and ".join(sorted((one["image"]["class"], one["suggested"])))
        counts[key] = counts.get(key, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1])[:5])


def draw(source: Source, pairs: list[dict[str, Any]], start: int) -> Image.Image:
    """Pairs side by side, numbered, with their scores; a cross where the classes differ."""
    sheet = Image.new("RGB", (10 * 204, -(-len(pairs) // 10) * 114), "white")
    pen = ImageDraw.Draw(sheet)
    for number, pair in enumerate(pairs):
        x, y = number % 10 * 204, number // 10 * 114
        for side, image in enumerate((pair["second"], pair["first"])):
            (record,) = source.splits[image["split"]].read(np.array([image["position"]]))
            pixels = record if isinstance(record, np.ndarray) else data.decode_image(record)
            sheet.paste(Image.fromarray(pixels).resize((98, 98), Image.Resampling.BICUBIC), (x + 99 * side, y))
        cross = "" if pair["first"]["class"] == pair["second"]["class"] else " x"
        pen.text((x + 2, y + 99), f"{start + number} {pair['score']:.2f}{cross}", fill="black")
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sheets", type=Path)
    parser.add_argument("--parts", nargs="*", help="planted, flipped, cifar10, cifar100, flipped_other_model")
    parser.add_argument("--labels-model")
    parser.add_argument("--labels-size", type=int)
    args = parser.parse_args()
    if args.sheets:
        args.sheets.mkdir(parents=True, exist_ok=True)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "planted": planted,
        "flipped": lambda: flipped(MODEL, None),
        "cifar10": lambda: as_it_is("cifar10", args.sheets),
        "cifar100": lambda: as_it_is("cifar100", args.sheets),
    }
    if args.labels_model:
        parts["flipped_other_model"] = lambda: flipped(args.labels_model, args.labels_size)
    for name in args.parts or parts:
        found = parts[name]()
        path = RESULTS / "doctor_cifar.json"
        before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        save("doctor_cifar", {**before, "model": MODEL, name: found, "machine": machine()})


if __name__ == "__main__":
    main()
