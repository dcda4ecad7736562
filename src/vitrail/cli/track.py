"""Show the log of a run in another program: a CSV table, TensorBoard, Weights & Biases, MLflow, Trackio.

`train` and `finetune` do the same while they go on, with --track NAME. metrics.jsonl in the run directory has all of
it in any case; these are views. wandb, mlflow and trackio are used if they are installed, and set up as their own
documentation says.
"""

import argparse
from pathlib import Path

from vitrail.cli.answer import Answer
from vitrail.config import to_json
from vitrail.config.settings import flat_settings
from vitrail.errors import RunError, shell_word
from vitrail.tracking import NAMES, export, scalars


def add_track_option(parser: argparse.ArgumentParser) -> None:
    """Declare --track, which train and finetune take."""
    parser.add_argument(
        "--track", action="append", choices=NAMES, help="send the log there, too, while it grows; once for each"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what track takes."""
    parser.add_argument("run", metavar="RUN", help="a run directory")
    parser.add_argument("--to", required=True, action="append", choices=NAMES, help="where; once for each")


def run(args: argparse.Namespace) -> Answer:
    """Send the whole log."""
    from vitrail.run import RunDir

    run_dir = RunDir(Path(args.run))
    config = flat_settings(to_json(run_dir.read_config()))
    records = [record for record in run_dir.read_metrics() if scalars(record)]
    if "tensorboard" in args.to and any((run_dir.path / "tensorboard").glob("events.*")):
        raise RunError(
            f"{args.run}: its log is in TensorBoard's form already.",
            got=run_dir.path / "tensorboard",
            do=f"Show it with: tensorboard --logdir {shell_word(run_dir.path / 'tensorboard')}; or delete that folder.",
        )
    for name in args.to:
        export(name, run_dir.path, config, records)
    lines = [f"{len(records)} records to {', '.join(args.to)}"]
    if "csv" in args.to:
        lines.append(f"table: {shell_word(run_dir.path / 'metrics.csv')}")
    if "tensorboard" in args.to:
        lines.append(f"look at it: tensorboard --logdir {shell_word(run_dir.path / 'tensorboard')}")
    return Answer(lines, {"run": args.run, "to": args.to, "num_records": len(records)})
