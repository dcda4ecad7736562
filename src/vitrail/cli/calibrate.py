"""Find how sure a model's answers are, and write it into the model file.

Training does this at its end where a val split was held out. The images must not be those that the model was trained
on. With --reject, images that are like none of the classes are answered with "unknown".
"""

import argparse

from vitrail.cli.answer import Answer
from vitrail.cli.engines import add_device_option
from vitrail.errors import ConfigError, shell_word
from vitrail.terminal import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what calibrate takes."""
    parser.add_argument("model", metavar="MODEL", help="a run directory or a vitrail model file")
    parser.add_argument("--data", metavar="SPEC", help="default: the data the model was trained on")
    parser.add_argument("--data-root", metavar="DIR", help="where named data sets are")
    parser.add_argument("--split", choices=("val", "test", "all"), default="val", help="default: val")
    parser.add_argument(
        "--reject",
        type=float,
        metavar="SHARE",
        help="answer `unknown` for this share of such images, as 0.05; 0: never (default: as it was)",
    )
    parser.add_argument("--out", metavar="FILE", help="write another model file (default: into the model's own)")
    add_device_option(parser)


def run(args: argparse.Namespace) -> Answer:
    """Fit the temperature and, if asked for, the thresholds of unknown."""
    if args.reject is not None and not 0 <= args.reject <= 0.5:
        raise ConfigError("--reject is out of range.", got=args.reject, expected="a share, from 0 to 0.5")
    from vitrail import api
    from vitrail.config import to_json
    from vitrail.training.calibration import calibration_line

    found = api.calibrate(
        args.model,
        args.data,
        split=args.split,
        reject=args.reject,
        out=args.out,
        data_root=args.data_root,
        device=args.device,
        progress=True,
        on_note=say,
    )
    lines = [calibration_line(found).replace("confidence     ", "")]
    if found.unknown:
        lines += [
            f"unknown: an image whose best class has less than {found.unknown.min_probability:.1%}, or whose features "
            f"are further than {found.unknown.max_distance:.1f} standard deviations from every class",
            f"about {found.unknown.reject:.0%} of the images of its own classes will be refused; not every strange "
            "image is",
        ]
    lines.append(f"written to {shell_word(args.out or args.model)}")
    return Answer(lines, {"model": args.out or args.model, "calibration": to_json(found)})
