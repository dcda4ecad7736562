"""Look at a data set, or fetch a named one.

`vitrail data info SPEC` says what is in it without training; `vitrail data download NAME` fetches and verifies it.
"""

import argparse
from pathlib import Path
from typing import Any

from vitrail.cli.answer import Answer, table
from vitrail.config import DataConfig

_MOST_CLASSES = 40
_IMBALANCED = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the two actions."""
    parser.add_argument("action", choices=("info", "download"), metavar="{info,download}")
    parser.add_argument("spec", metavar="SPEC", help="a named set, a folder, a Parquet file or a manifest")
    parser.add_argument("--data-root", default="", metavar="DIR", help="where named data sets are, or go")


def run(args: argparse.Namespace) -> Answer:
    """Describe or fetch a data set."""
    from vitrail import data

    if args.action == "download":
        path = data.download(args.spec, Path(args.data_root) if args.data_root else None, progress=True)
        return Answer(f"{args.spec} is in {path}", {"name": args.spec, "path": str(path)})
    found = data.summary(DataConfig(spec=args.spec, root=args.data_root))
    return Answer(_text(found), found)


def _text(found: dict[str, Any]) -> str:
    """Counts of each class in each split, then what the files are and what is wrong with them."""
    splits: dict[str, dict[str, Any]] = found["splits"]
    rows = [(name, *(split["per_class"][name] for split in splits.values())) for name in found["classes"]]
    total = ("total", *(split["num_examples"] for split in splits.values()))
    lines = [
        f"{found['name']}: {len(found['classes'])} classes, {found['num_bytes'] / 2**20:.1f} MiB, "
        f"fingerprint {found['fingerprint'][:16]}",
        "",
        table(("class", *splits), [*rows[:_MOST_CLASSES], total]),
    ]
    if len(rows) > _MOST_CLASSES:
        lines.append(f"... {_MOST_CLASSES} of {len(rows)} classes; all of them with --json")
    for name, split in splits.items():
        lines.append(f"{name}: {_counts(split['formats'])}; sizes {_counts(split['sizes'])}")
        if split["imbalance"] > _IMBALANCED:
            lines.append(f"{name}: the largest class has {split['imbalance']:.0f} times the images of the smallest")
        lines += [f"{name}: unreadable: {error['path']}: {error['error']}" for error in split["errors"]]
    if found["num_ignored_files"]:
        lines.append(f"{found['num_ignored_files']} files that are no images are ignored")
    return "\n".join(lines)


def _counts(counts: dict[str, int]) -> str:
    shown = ", ".join(f"{name} ({count})" for name, count in list(counts.items())[:5])
    return shown + (f", and {len(counts) - 5} more" if len(counts) > 5 else "")
