"""Check the installation: model, data, training, saving, resuming. With --faults: that crashes lose nothing."""

import argparse
import tempfile
from pathlib import Path

from vitrail.cli.answer import Answer
from vitrail.errors import ConfigError
from vitrail.terminal import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what selftest takes."""
    parser.add_argument(
        "--faults", action="store_true", help="kill, damage and interrupt small runs, and count what is lost"
    )
    parser.add_argument("--kills", type=int, metavar="N", help="with --faults: how many kills (default: 50)")
    parser.add_argument("--kill-seed", type=int, metavar="N", help="with --faults: seed of the moments (default: 0)")


def run(args: argparse.Namespace) -> Answer:
    """Run the checks; exit status 1 when one of them fails."""
    from vitrail.distributed import leave_launch
    from vitrail.selftest import check_all, inject_faults

    leave_launch()  # its runs are of one process, whoever started this one

    given = [f"--{name.replace('_', '-')}" for name in ("kills", "kill_seed") if getattr(args, name) is not None]
    if given and not args.faults:
        raise ConfigError(f"{given[0]} needs --faults.", do=f"Add --faults, or leave {given[0]} out.")
    if args.kills is not None and args.kills < 1:
        raise ConfigError("--kills must be positive.", got=args.kills, expected="an integer >= 1")
    found: list[dict[str, object]] = []
    lines: list[str] = []
    with tempfile.TemporaryDirectory(prefix="vitrail-selftest-") as folder:
        place = Path(folder)
        checks = (
            inject_faults(place, kills=args.kills or 50, seed=args.kill_seed or 0) if args.faults else check_all(place)
        )
        for check in checks:
            counts = f"{_counted(check.points, 'point')} {_counted(len(check.failures), 'failure')}"
            line = f"{check.name:40s}{counts}  {check.seconds:6.1f} s"
            if check.worst_seconds:
                line += f"  recovered after {check.worst_seconds:.1f} s at most"
            say(line, prefix="")
            lines += [f"{check.name}: {failure}" for failure in check.failures]
            found.append(
                {
                    "name": check.name,
                    "points": check.points,
                    "failures": list(check.failures),
                    "seconds": check.seconds,
                    "worst_recovery_seconds": check.worst_seconds,
                }
            )
    failed = any(check["failures"] for check in found)
    lines.append("some checks failed: see above" if failed else "all checks passed")
    return Answer(lines, {"checks": found, "ok": not failed}, 1 if failed else 0)


def _counted(count: int, noun: str) -> str:
    return f"{count:6d} {noun}{' ' if count == 1 else 's'}"
