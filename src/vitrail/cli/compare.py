"""Say whether one of two models is better on the same images, and what could have been seen at all.

A and B are run directories, whose answers training and eval have left there, or files of eval --predictions. With
--data, model files and other weights are measured first. Several runs a side, with other seeds, compare two ways of
training: vitrail compare A1 A2 A3 --to B1 --to B2 --to B3.
"""

import argparse

from vitrail.cli.answer import Answer, table
from vitrail.errors import ConfigError, shell_word

_MOST_CLASSES = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what compare takes."""
    parser.add_argument("models", nargs="+", metavar="MODEL", help="A and B; with --to, all of them are A's runs")
    parser.add_argument("--to", action="append", metavar="MODEL", help="a run of B; once for each")
    parser.add_argument("--data", metavar="SPEC", help="measure both on these images first")
    parser.add_argument("--data-root", metavar="DIR", help="where named data sets are")
    parser.add_argument("--split", choices=("train", "val", "test", "all"), help="default: test, else val")
    parser.add_argument("--out", metavar="FILE.html", help="write a page with pictures of what was fixed and broken")
    parser.add_argument("--no-images", dest="no_images", action="store_true", help="leave pictures out of the page")


def run(args: argparse.Namespace) -> Answer:
    """Compare, and write the page where it is asked for."""
    if args.to is None and len(args.models) != 2:
        raise ConfigError(
            "compare takes two models.", got=len(args.models), expected="A B; or A1 A2 ... --to B1 --to B2 ..."
        )
    from vitrail.api.comparisons import compare

    first, second = (args.models, args.to) if args.to else ([args.models[0]], [args.models[1]])
    found = compare(
        first,
        second,
        data=args.data,
        split=args.split,
        data_root=args.data_root,
        out=args.out,
        images=not args.no_images,
        progress=not args.json,
    )
    paired, loss = found.paired, found.loss_difference
    lines = [
        found.verdict,
        "",
        f"A: {', '.join(found.first.names)}   B: {', '.join(found.second.names)}",
        f"B less A: {100 * paired.difference:+.2f} points, between {100 * paired.low:+.2f} and "
        f"{100 * paired.high:+.2f}; loss {loss.value:+.4f}, between {loss.low:+.4f} and {loss.high:+.4f}",
        f"right in B alone: {paired.only_second}, in A alone: {paired.only_first}; "
        f"both have {found.both_right} right and {found.both_wrong} wrong",
    ]
    rows = [
        (one.name, one.num_examples, one.first_correct, one.second_correct, one.fixed, one.broken,
         "-" if one.p_holm is None else "< 0.001" if one.p_holm < 0.001 else f"{one.p_holm:.3f}")
        for one in found.per_class if one.fixed or one.broken
    ]  # fmt: skip
    if rows:
        head = ("class", "images", "right, A", "right, B", "fixed", "broken", "p (Holm)")
        lines += ["", *table(head, rows[:_MOST_CLASSES])]
        if len(rows) > _MOST_CLASSES:
            lines.append(f"... {_MOST_CLASSES} of {len(rows)} classes that changed; all of them with --json")
    settings = [f"{name} {a} -> {b}" for name, a, b in found.settings]
    lines += ["", *([f"settings: {', '.join(settings)}"] if settings else []), *found.notes]
    if args.out:
        lines += ["", f"page       {shell_word(args.out)}"]
    return Answer(lines, found.to_json())
