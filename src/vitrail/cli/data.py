"""Look at a data set, download a named one, decode it once and for all, or index and plan what is streamed.

`vitrail data info SPEC` says what is in it; `vitrail data check SPEC` reads all of it and names what is wrong, with
--near also what only looks wrong: copies that were re-saved or cropped, leaks between splits, doubtful labels;
`vitrail data download NAME` downloads and verifies it; `vitrail data pack SPEC DST` writes its decoded images;
`vitrail data index SPEC -o DIR` reads the headers of tar shards, local or s3://, gs://, hf://, https://;
`vitrail data simulate SPEC` says what a cluster would see that trains on them.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vitrail.cli import data_simulate, data_streams
from vitrail.cli.answer import Answer, table
from vitrail.cli.settings import as_flag
from vitrail.cli.values import add_size_option
from vitrail.config import DataConfig
from vitrail.errors import ConfigError, shell_word, shown
from vitrail.terminal import Heading

_ACTIONS = ("info", "check", "download", "pack", "index", "simulate")
_MOST_CLASSES = 40
_IMBALANCED = 10
_MOST_DETAILS = 40
_FEWEST_CLASSES = 20
_MOST_RANKED = 5
_OF_PACK = ("image_size", "channels", "resize_mode", "fast_decoding", "icc")
"""Options of `data pack`, named as the settings of a run that they are."""
_OPTIONS: dict[str, Sequence[str]] = {
    "pack": ("target", *_OF_PACK),
    "check": ("near", "model", "gallery", "write_manifest", "strict"),
    "index": data_streams.OPTIONS,
    "simulate": tuple(data_simulate.DEFAULTS),
}
"""What only one action takes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions."""
    parser.add_argument("action", choices=_ACTIONS, metavar=f"{{{','.join(_ACTIONS)}}}")
    parser.add_argument("spec", metavar="SPEC", help="a named set, a folder, a Parquet file, a manifest, tars")
    parser.add_argument("target", nargs="?", metavar="DST", help="the new folder (pack)")
    add_size_option(parser, "pack: size of the images (default: 224)")
    parser.add_argument("--channels", choices=("RGB", "L"), help="pack: colour or grey (default: RGB)")
    parser.add_argument("--resize-mode", choices=("crop", "squash"), help="pack: as data.resize-mode (default: crop)")
    parser.add_argument("--fast-decoding", action="store_true", default=None, help="pack: as data.fast-decoding")
    parser.add_argument("--icc", choices=("apply", "ignore"), help="pack: as data.icc (default: apply)")
    parser.add_argument("--near", action="store_true", default=None, help="check: also what is only nearly the same")
    parser.add_argument(
        "--model", metavar="MODEL", help="check: whose features --near compares (builtin:cifar100-conv)"
    )
    parser.add_argument("--gallery", metavar="FILE.html", help="check: a page of what --near found, to look at")
    parser.add_argument("--write-manifest", metavar="FILE.csv", help="check: the images without what was found")
    parser.add_argument("--strict", action="store_true", default=None, help="check: guesses of --near count as faults")
    parser.add_argument("--data-root", default="", metavar="DIR", help="where named data sets are, or will be")
    data_streams.add_arguments(parser)
    data_simulate.add_arguments(parser)


def run(args: argparse.Namespace) -> Answer:
    """Describe or fetch a data set."""
    from vitrail import data

    _refuse_options_of_others(args)
    if args.action in _ALONE:
        return _ALONE[args.action](args)
    if args.action == "download":
        there = data.place_of(args.spec, args.data_root)
        if there is not None:
            return Answer([f"{args.spec} is there already: {there}"], {"name": args.spec, "path": str(there)})
        path = data.download(args.spec, Path(args.data_root) if args.data_root else None, progress=True)
        return Answer([f"{args.spec} is in {path}"], {"name": args.spec, "path": str(path)})
    found = data.summary(DataConfig(spec=args.spec, root=args.data_root))
    return Answer(_text(found), found)


def _pack(args: argparse.Namespace) -> Answer:
    from vitrail import data

    if not args.target:
        raise ConfigError(
            "vitrail data pack needs a new folder to write to.", do=f"vitrail data pack {shell_word(args.spec)} DST"
        )
    given = {name: getattr(args, name) for name in _OF_PACK if getattr(args, name) is not None}
    config = DataConfig(spec=args.spec, root=args.data_root, **given)
    packed = data.pack(config, Path(args.target), progress=True)
    size = "x".join(map(str, packed["decode_size"]))
    lines = [
        f"{args.target}: {packed['num_bytes'] / 2**20:.1f} MiB of {size}; use it as --data {shell_word(args.target)}"
    ]
    for name, split in packed["splits"].items():
        unreadable = f", {len(split['errors'])} of them unreadable" if split["errors"] else ""
        lines.append(f"{name}: {split['num_examples']} images{unreadable}")
    return Answer(lines, packed)


def _refuse_options_of_others(args: argparse.Namespace) -> None:
    for action, names in _OPTIONS.items():
        given = [name for name in names if action != args.action and getattr(args, name) is not None]
        if given:
            word = "DST" if given[0] == "target" else as_flag(given[0])
            raise ConfigError(f"data {args.action} does not take {word}: it belongs to data {action}.")


def _check(args: argparse.Namespace) -> Answer:
    wants_near = args.near or args.gallery or args.write_manifest
    if not wants_near and (args.model or args.strict):
        raise ConfigError(f"{'--model' if args.model else '--strict'} needs --near.", do="Add --near.")
    if not wants_near:
        from vitrail import data

        found = data.check(DataConfig(spec=args.spec, root=args.data_root), progress=True)
        return Answer([*_problems(found), *_next_steps(args.spec, found)], found, 0 if found["is_clean"] else 2)
    from vitrail import api, doctor

    found = api.check_data(
        args.spec,
        near=True,
        model=args.model or api.DOCTORS_MODEL,
        gallery=args.gallery,
        manifest=args.write_manifest,
        data_root=args.data_root or None,
        progress=True,
    )
    guessed = [kind for kind in doctor.GUESSES if found["near"]["kinds"][kind]]
    is_wrong = not found["is_clean"] or (args.strict and guessed)
    return Answer([*_problems(found), "", *_near(found["near"], args)], found, 2 if is_wrong else 0)


def _next_steps(spec: str, found: dict[str, Any]) -> list[str]:
    """What becomes of what was found, and what looks further."""
    lines = [""]
    if any(split["errors"] for split in found["splits"].values()):
        lines.append("What cannot be read is left out of training, and counts as wrong when a model is measured.")
    if found["leaks"]:
        lines.append("Images in several splits make the accuracy too high: delete them from one of the splits.")
    if any(split["duplicates"] for split in found["splits"].values()) or found["conflicts"]:
        lines.append("Copies are trained on as often as they are there: delete all but one, in the right class.")
    look = f"vitrail data check {shell_word(spec)} --near --gallery pairs.html"
    return [*lines, f"Near copies, doubtful labels and outliers, as pictures: {look}"]


def _judge(near: dict[str, Any]) -> str:
    """What the doubts are worth."""
    accuracy = near["label_accuracy"]
    weak = (
        "" if accuracy >= _sure() else ": many of these will be right; a --model that knows such images judges better"
    )
    return f"  judged by a classifier that is right for {accuracy:.0%} of the images{weak}"


def _sure() -> float:
    from vitrail.doctor import SURE

    return SURE


def _near(near: dict[str, Any], args: argparse.Namespace) -> list[str]:
    """How many there are of each kind, and the first of those that only look wrong."""

    def name(image: dict[str, Any]) -> str:
        return f"{image['split']}:{shown(image['path'])} ({shown(image['class'], 40)})"

    lines = table(("kind", "found"), list(near["kinds"].items()))
    for kind, key in (("near leaks", "leaks"), ("near duplicates", "pairs")):
        lines += ["", *([Heading(f"{kind}, the most alike first")] if near[key] else [])][: 2 * bool(near[key])]
        lines += [f"  {p['score']:.2f}  {name(p['first'])}  {name(p['second'])}" for p in near[key][:_MOST_RANKED]]
    if near["suspects"]:
        lines += ["", Heading("suspect labels, the most doubtful first"), _judge(near)]
    lines += [
        f"  {name(one['image'])} looks like {shown(one['suggested'], 40)}: {one['p_suggested']:.2f} against "
        f"{one['p_class']:.2f}"
        for one in near["suspects"][:_MOST_RANKED]
    ]
    for key in ("outliers", "odd"):
        if near[key]:
            lines += ["", Heading("outliers" if key == "outliers" else "odd images")]
        lines += [f"  {one['kind']} {one['value']:.3g}: {name(one['image'])}" for one in near[key][:_MOST_RANKED]]
    if near["not_judged"]:
        lines += ["", f"labels not judged, too few images: {', '.join(shown(n, 40) for n in near['not_judged'][:10])}"]
    lines += ["", "all of them, ranked, with --json; as pictures with --gallery FILE.html"][: 2 * (not args.gallery)]
    lines += ["", f"all of them, ranked, as pictures: {args.gallery}"][: 2 * bool(args.gallery)]
    if args.write_manifest:
        kept = "; suspect labels are still in it" if near["suspects"] and near["label_accuracy"] < _sure() else ""
        lines.append(f"{args.write_manifest} names {near['num_kept']} images, those without what was found{kept}")
    return lines


def _problems(found: dict[str, Any]) -> list[str]:
    """What is wrong with a data set, at most a few of each kind."""
    splits: dict[str, dict[str, Any]] = found["splits"]
    lines = [*_per_class(found["classes"], splits), ""]
    lines += found["notes"]
    lines += found["warnings"] or ["no problems found"]
    details = [f"{name}: unreadable: {e['path']}: {e['error']}" for name, s in splits.items() for e in s["errors"]]
    details += [f"{name}: identical: {', '.join(g)}" for name, s in splits.items() for g in s["duplicates"]]
    details += [f"in several splits: {', '.join(group)}" for group in found["leaks"]]
    details += [f"in several classes: {', '.join(group)}" for group in found["conflicts"]]
    if len(details) > _MOST_DETAILS:
        details[_MOST_DETAILS:] = [f"... {_MOST_DETAILS} of {len(details)}; all of them with --json"]
    return [*lines, *details]


def _per_class(classes: Sequence[str], splits: dict[str, dict[str, Any]]) -> list[str]:
    """Images of each class in each split, the smallest classes first, and the sums."""
    rows = [(name, *(split["per_class"][name] for split in splits.values())) for name in classes]
    rows.sort(key=lambda row: sum(row[1:]))
    total = (f"{len(classes)} classes", *(split["num_examples"] for split in splits.values()))
    lines = table(("class", *splits), [*rows[:_FEWEST_CLASSES], total])
    if len(rows) > _FEWEST_CLASSES:
        lines.append(f"... the {_FEWEST_CLASSES} smallest of {len(rows)} classes; all of them with --json")
    return lines


def _text(found: dict[str, Any]) -> list[str]:
    """Counts of each class in each split, then what the files are and what is wrong with them."""
    order = ("train", "val", "test")
    splits: dict[str, dict[str, Any]] = {name: found["splits"][name] for name in order if name in found["splits"]}
    rows = [(name, *(split["per_class"][name] for split in splits.values())) for name in found["classes"]]
    total = ("total", *(split["num_examples"] for split in splits.values()))
    lines = [
        f"{found['name']}: {len(found['classes'])} classes, {found['num_bytes'] / 2**20:.1f} MiB, "
        f"fingerprint {found['fingerprint'][:16]}",
        "",
        *table(("class", *splits), [*rows[:_MOST_CLASSES], total]),
    ]
    if len(rows) > _MOST_CLASSES:
        lines.append(f"... {_MOST_CLASSES} of {len(rows)} classes; all of them with --json")
    for name, split in splits.items():
        lines.append(f"{name}: {_counts(split['formats'])}; sizes {_counts(split['sizes'])}")
        if split["imbalance"] > _IMBALANCED:
            lines.append(f"{name}: the largest class has {split['imbalance']:.0f} times the images of the smallest")
        lines += [f"{name}: unreadable: {error['path']}: {error['error']}" for error in split["errors"]]
    return [*lines, *found["notes"]]


def _counts(counts: dict[str, int]) -> str:
    shown = ", ".join(f"{name} ({count})" for name, count in list(counts.items())[:5])
    return shown + (f", and {len(counts) - 5} more" if len(counts) > 5 else "")


_ALONE = {"pack": _pack, "check": _check, "index": data_streams.index, "simulate": data_simulate.run}
"""Actions whose functions do all the work."""
