"""`vitrail data index`: the table of shards that a training set is streamed from."""

import argparse
from pathlib import Path
from typing import Any

from vitrail.cli.answer import Answer, table
from vitrail.errors import ConfigError, shell_word, shown

OPTIONS = ("out", "chunk_mib", "digests", "labels", "classes")
"""Options of `data index`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("-o", "--out", metavar="DIR", help="index: a new folder (default: in the cache folder)")
    parser.add_argument(
        "--chunk-mib", type=float, metavar="MIB", help="index: what one request fetches, at least (default: 4)"
    )
    parser.add_argument(
        "--digests", choices=("yes", "no"), help="index: hash each chunk (default: yes where it is not local)"
    )
    parser.add_argument(
        "--labels", choices=("cls", "txt"), help="index: the member with the class; cls: .cls or .json (default)"
    )
    parser.add_argument(
        "--classes", metavar="FILE.txt", help="index: the names of classes 0, 1, ... (default: classes.txt of SPEC)"
    )


def index(args: argparse.Namespace) -> Answer:
    """Index shards, and say what they hold."""
    from vitrail.data.streaming.indexing import class_names_in
    from vitrail.data.streaming.opening import index as index_shards
    from vitrail.data.streaming.places import printable, scheme_of
    from vitrail.data.streaming.samples import Rules
    from vitrail.data.streaming.table import Keys
    from vitrail.reading import read_regular

    mib = 4.0 if args.chunk_mib is None else args.chunk_mib
    if not 1 / 64 <= mib <= 1024:
        raise ConfigError("--chunk-mib is out of range.", got=mib, expected="0.016 to 1024")
    is_remote = scheme_of(args.spec) is not None
    rules = Rules(int(mib * 2**20), args.digests == "yes" or (is_remote and args.digests != "no"), args.labels == "txt")
    names = None
    if args.classes is not None:
        try:
            names = class_names_in(read_regular(Path(args.classes), 16 << 20), args.classes)
        except OSError as error:
            raise ConfigError(f"{shown(args.classes)}: cannot be read.", got=error.strerror) from error
    if not (args.out or is_remote) and any(getattr(args, name) is not None for name in OPTIONS):
        raise ConfigError("Another index than the usual one needs a place of its own.", do="Name a new folder with -o.")
    folder, found = index_shards(
        args.spec, Path(args.out) if args.out else None, rules=rules, class_names=names, progress=True
    )
    splits: dict[str, Any] = {}
    for split in dict.fromkeys(shard.split for shard in found.shards):
        chunks = found.chunks[found.chunks_of(split)]
        shards = [shard for shard in found.shards if shard.split == split]
        splits[split] = {
            "num_examples": int(chunks["count"].sum()),
            "num_chunks": len(chunks),
            "num_shards": len(shards),
            "num_bytes": sum(shard.size for shard in shards),
        }
    unlabelled = int((found.members["label"] < 0).sum())
    rows = [
        (n, s["num_shards"], s["num_chunks"], s["num_examples"], s["num_bytes"] // 2**20) for n, s in splits.items()
    ]
    lines = table(("split", "shards", "chunks", "images", "MiB"), rows)
    lines += ["", f"{len(found.classes)} classes", *found.notes]
    if unlabelled:
        first = Keys(found, slice(0, len(found.chunks)))[int((found.members["label"] < 0).argmax())]
        lines.append(f"images without a label, which training leaves out: {unlabelled}, first {shown(first)}")
    use = str(folder) if args.out else args.spec
    lines.append(f"{shown(folder)}: use it as --data {shell_word(use)}")
    values = {
        "path": str(folder),
        "place": printable(found.place),
        "classes": list(found.classes),
        "splits": splits,
        "num_unlabelled": unlabelled,
        "notes": list(found.notes),
    }
    return Answer(lines, values)
