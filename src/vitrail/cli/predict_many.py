"""`vitrail predict -o OUT`: any number of images to a folder of Parquet or CSV files, by any number of workers."""

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitrail import __version__
from vitrail.cli.answer import Answer
from vitrail.cli.processes import launched, started_here
from vitrail.cli.values import MEAN_OVER_MIRROR
from vitrail.errors import ConfigError, DataError, Interrupted, shown
from vitrail.terminal import say

if TYPE_CHECKING:
    from vitrail.batch_prediction import Done, Job
    from vitrail.distributed import World
    from vitrail.predictor import BatchPredictor

_OPTIONS = ("what", "part", "to", "split", "data_root")
_GOES_ON = "The same command goes on."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what predict takes for many images."""
    parser.add_argument("-o", "--out", metavar="DIR", help="many images: write Parquet files here; see docs/scale.md")
    parser.add_argument(
        "--what",
        choices=("labels", "probabilities", "embedding"),
        help="with -o: what is written of each image; probabilities: those of all classes (default: labels)",
    )
    parser.add_argument("--to", choices=("parquet", "csv"), help="with -o: form of the files (default: parquet)")
    parser.add_argument("--part", metavar="I/N", help="with -o: do the I-th of N shares, as 1/8 ... 8/8 in a job array")
    parser.add_argument(
        "--split", choices=("train", "val", "test", "all"), help="with -o: of a data set with splits (default: all)"
    )
    parser.add_argument("--data-root", metavar="DIR", help="with -o: where named data sets are")


def is_asked(args: argparse.Namespace) -> bool:
    """Whether files are to be written. Raises ConfigError: an option that needs -o, without it."""
    if args.out:
        return True
    if given := [name for name in _OPTIONS if getattr(args, name)]:
        raise ConfigError(f"--{given[0].replace('_', '-')} needs -o.", do="Add -o DIR: the folder to write to.")
    return False


def run(args: argparse.Namespace) -> Answer:
    """Write the predictions for every image of the input."""
    from vitrail.batch_prediction import check_form
    from vitrail.predictor import BatchPredictor, is_exported

    share = _share(args.part)
    check_form(args.to or "parquet")
    predictor = BatchPredictor(
        args.model,
        what=args.what or "labels",
        top=args.top or 1,
        views=args.views,
        engine=args.engine,
        precision=args.precision or "fp32",
        merge=args.merge,
        image_size=args.image_size,
        device=args.device,
        batch_size=args.batch_size,
        on_wait=say,
    )
    if is_exported(args.model):
        if args.nproc != 1:
            raise ConfigError(
                "--nproc cannot be given with an exported file: it uses all cores in one process.",
                do="On several machines: --part 1/N, 2/N, ...",
            )
        return _predicted(args, predictor, share, None)
    if started_here(args):
        return launched(args)

    from vitrail.config import ParallelConfig
    from vitrail.distributed import join_processes

    with join_processes(ParallelConfig(timeout_seconds=600), args.device) as world:
        return _predicted(args, predictor, share, world)


def _predicted(
    args: argparse.Namespace, predictor: "BatchPredictor", share: tuple[int, int], world: "World | None"
) -> Answer:
    """Do this process's share.

    Args:
        share: which of how many, from 0.
        world: the processes that divide it further; None: this one does it all.
    """
    from vitrail.batch_prediction import Job, do_parts, find_units

    is_first = world is None or world.is_first
    out = Path(args.out)
    inputs = find_units(args.paths, out, split=args.split or "all", root=args.data_root or "")
    about = {"vitrail": __version__, **predictor.loaded.about}
    job = Job(out, inputs, about, args.to or "parquet")
    if about["engine"] == "torch" and about["device"] == "cpu":
        # With another number of threads torch may sum in another order, and rows would differ.
        import torch

        torch.set_num_threads(1)
    if is_first:
        for note in inputs.notes:
            say(note)
        many = f"{about['batch_size']} at a time"
        say(f"units: {len(job.parts)}; {about['engine']} {about['precision']} on {about['device']}, {many}")
        workers = share[1] * (world.size if world else 1)
        if workers > len(job.parts):
            say(f"units: {len(job.parts)}, workers: {workers}; so some of them have nothing to do")
    mine = job.parts[share[0] :: share[1]]
    mine = mine[world.rank :: world.size] if world else mine
    try:
        done = do_parts(
            job, mine, predictor,
            progress=is_first, on_batch=lambda rows: world.report_progress("predict", rows) if world else None,
        )  # fmt: skip
    except KeyboardInterrupt:
        finished = sum(part.path.exists() for part in job.parts)
        what = f"interrupted; {finished} of {len(job.parts)} parts are there."
        raise Interrupted(what, signal_number=2, do=_GOES_ON) from None
    everybody = world.gather(done) if world else [done]
    return _answer(job, everybody, job.finish() if is_first else None)


def _answer(job: "Job", everybody: list["Done"], manifest: dict[str, Any] | None) -> Answer:
    """What was done by all processes of this call. Raises DataError: shards, or all images, could not be read."""
    written, kept, rows, errors = (
        sum(getattr(done, name) for done in everybody) for name in ("parts", "kept", "rows", "errors")
    )
    _check_read(job, everybody)
    if manifest and manifest["rows"] and manifest["errors"] == manifest["rows"]:
        raise DataError(
            f"None of the {manifest['rows']} images could be read; the column error says why.",
            got=f"{shown(job.out)}, where every row is an error",
            expected="images",
            do="Give the images, or shards of them.",
        )
    values: dict[str, Any] = {
        "out": str(job.out),
        "is_complete": manifest is not None,
        "parts": {"written": written, "kept": kept, "of": len(job.parts)},
        "written": {"rows": rows, "errors": errors},
        "total": manifest and {"rows": manifest["rows"], "errors": manifest["errors"]},
        "engine": {name: job.about[name] for name in ("engine", "precision", "merge", "device", "batch_size")},
        **({"views": job.about["views"]} if "views" in job.about else {}),
    }
    lines = [f"{shown(job.out)}: parts written: {written}, rows in them: {rows}; parts that were there: {kept}"]
    if "views" in job.about:
        lines.append(MEAN_OVER_MIRROR)
    if errors:
        lines.append(f"images that could not be read: {errors}; the column error says why")
    if manifest:
        lines.append(f"complete: {manifest['rows']} rows, {manifest['errors']} of them errors, in _manifest.json")
    else:
        lines.append("not complete: other workers have parts to do")
    return Answer(lines, values)


def _check_read(job: "Job", everybody: list["Done"]) -> None:
    """Raise DataError where units could not be read to their end."""
    failed = [line for done in everybody for line in done.failed]
    unreachable = [line for done in everybody for line in done.unreachable]
    if not failed and not unreachable:
        return
    written = f"parts that are written: {sum(part.path.exists() for part in job.parts)} of {len(job.parts)}"
    if not failed:
        raise DataError(
            f"Not all of the input could be fetched; {written}.",
            listed=unreachable[:5],
            do=f"Check the connection. {_GOES_ON}",
        )
    raise DataError(
        f"{len(failed)} of the inputs could not be read to their end; {written}.",
        listed=[*failed, *unreachable][:5],
        do="Mend or remove them, and give a new folder with -o: the parts in this one belong to the input as it was.",
    )


def _share(words: str | None) -> tuple[int, int]:
    """Which of how many shares, from 0. Raises ConfigError."""
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", words or "1/1")
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise ConfigError("--part is a share of the work.", got=words, expected="I/N with I from 1 to N, as 3/8")
    return int(found[1]) - 1, int(found[2])
