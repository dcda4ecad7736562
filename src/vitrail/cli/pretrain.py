"""Train an encoder on images without labels, for `vitrail finetune` to start from.

Patches of each image are masked, and the model predicts their pixels from the others (SimMIM, arXiv:2111.09886). The
images are those of a folder, sorted into classes or not, or of anything that train takes; labels are ignored. It pays
with many images and few labels. Every setting of the run can be changed, as in train: --pretrain.mask-ratio 0.75
--epochs 100 --image-size 64. `vitrail pretrain --settings` lists them all.
"""

import argparse
from pathlib import Path

from vitrail import recipes
from vitrail.cli.answer import Answer
from vitrail.cli.settings import apply_settings, check_said_once
from vitrail.cli.train import add_run_options, config_of_run, listed, trained
from vitrail.config import RunConfig
from vitrail.config.settings import with_data
from vitrail.errors import ConfigError

_DEFAULT = "pretrain-cpu"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what pretrain takes besides the settings."""
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help=f"how (default: {_DEFAULT}, for small images)")
    parser.add_argument("--from", dest="source", metavar="CONFIG", help="repeat an earlier run from its config.json")
    add_run_options(parser, "the images: a folder, a named set, a manifest, hf:OWNER/NAME")


def run(args: argparse.Namespace) -> Answer:
    """Train, and say where the encoder is and what to do with it."""
    from vitrail.api import check_is_pretraining

    check_said_once(args)
    config = with_data(_start(args), args.data, args.data_root)
    config = apply_settings(config, args.settings, "vitrail pretrain")
    check_is_pretraining(config)
    return listed(config) if args.list_settings else trained(config, args)


def _start(args: argparse.Namespace) -> RunConfig:
    """The configuration before any setting is changed: a recipe's, an earlier run's, or the resumed run's own."""
    if stored := config_of_run(args):
        return stored
    if args.recipe and args.recipe not in recipes.names() and Path(args.recipe).exists():
        raise ConfigError(
            f"{args.recipe} is not a recipe.",
            got="a file or folder",
            expected=f"one of {', '.join(recipes.without_labels())}",
            do="Give images with --data, and a configuration with --from.",
        )
    return recipes.get(args.recipe or _DEFAULT)
