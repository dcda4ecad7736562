"""Say in one page whether a model can be used: accuracy with its interval, mistakes, classes, confidence, limits.

`vitrail report RUN` reads what training and eval left in a run directory and evaluates nothing; the run may still be
training, or may have been killed. With --data, a model file, builtin:NAME or other weights are measured first. The
page is one HTML file that needs no network; all its figures are in the JSON file beside it.
"""

import argparse
import sys
from pathlib import Path

from vitrail.cli.answer import Answer
from vitrail.errors import shell_word


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what report takes."""
    parser.add_argument("model", metavar="RUN", help="a run directory; with --data also a model file or other weights")
    parser.add_argument("--data", metavar="SPEC", help="measure the model on these images first")
    parser.add_argument("--data-root", metavar="DIR", help="where named data sets are")
    parser.add_argument(
        "--split",
        choices=("train", "val", "test", "all"),
        help="whose answers count (default: test, else val); with --data as in eval",
    )
    parser.add_argument("--out", metavar="FILE.html", help="default: RUN/report.html; with --data MODEL-report.html")
    parser.add_argument("--no-images", dest="no_images", action="store_true", help="leave pictures of the data out")
    parser.add_argument("--png", metavar="DIR", help="the figures as PNG files, too")
    parser.add_argument("--text", action="store_true", help="curves in the terminal; writes files only with --out")
    parser.add_argument("--with-host", action="store_true", help="leave folders of this machine in the texts")


def run(args: argparse.Namespace) -> Answer:
    """Read or measure, judge, and write the page."""
    from vitrail.api import reports
    from vitrail.reporting.text import curve_lines, verdict_lines

    made, sources = reports.collect(
        args.model,
        data=args.data,
        split=args.split,
        data_root=args.data_root,
        with_host=args.with_host,
        progress=not args.json,
    )
    lines = verdict_lines(made)
    if args.text:
        encoding = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "")
        lines += ["", *curve_lines(made, unicode=encoding == "utf8")]
    if args.out or not args.text:
        path = Path(args.out) if args.out else reports.default_path(args.model, args.data)
        written = reports.write(
            made, sources, path, images=not args.no_images, png=Path(args.png) if args.png else None
        )
        lines += ["", f"report     {shell_word(written[0])}", f"figures    {shell_word(written[1])}"]
        lines += [f"picture    {shell_word(one)}" for one in written[2:]]
    return Answer(lines, made.to_json())
