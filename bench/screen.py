"""Which of several settings pay? A balanced screen of a recipe at equal time, equal FLOP or equal epochs.

    python bench/screen.py cifar10-cpu --minutes 6 --seeds 0 --name flags --factors optim.muon-lr=0.02,0.04
        model.qk-norm=false,true model.num-registers=0,4 optim.label-smoothing=0.1,0.2

Each factor is a setting with a low and a high value; settings that change together are joined by `+`, as in
`model.hidden-size=64,96+model.num-attention-heads=2,3`; a list is quoted, `"schedule.progressive-until=.35 .7,.5 .8"`.
Up to four factors: every combination is trained. Five to eight: sixteen runs, in which no main effect is mixed up with
another one or with an interaction of two (a fractional factorial design of resolution IV). Scores are of 5,000 images
held out of the training set; the test set is not read.

At equal time (`--minutes`), each combination first takes a short run that passes through the same sizes as the whole
schedule, and gets as many steps as fit into the minutes at that speed: nothing else should run beside it. `--tflop`
gives equal arithmetic, counted by torch, whatever the machine; `--epochs` equal epochs.

The effect of a factor is the mean over all runs with its high value less the mean over all with the low one, with a
95 % interval from what the main effects leave over. A run that is there already is not trained again: stop and go on at
will.

Out: a table, and bench/results/screen_NAME.json.
"""

import argparse
import itertools
import json
import math
import statistics
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from scipy import stats
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import vitrail
from bench.results_file import Results
from vitrail import recipes
from vitrail.cli.settings import apply_settings
from vitrail.config import RunConfig, ViTConfig
from vitrail.config.checks import pair
from vitrail.config.vit import token_stride
from vitrail.model import ViT
from vitrail.training.schedule import scaled_size

MOST_FACTORS = 8
KEPT = "screen.json"
_SPEED_STEPS = 60
_GENERATORS: dict[int, tuple[tuple[int, ...], ...]] = {
    5: ((0, 1, 2, 3),),
    6: ((0, 1, 2), (1, 2, 3)),
    7: ((0, 1, 2), (1, 2, 3), (0, 2, 3)),
}
_GENERATORS[8] = (*_GENERATORS[7], (0, 1, 3))
"""For each number of factors, what the columns after the fourth are products of."""


@dataclass(frozen=True)
class Factor:
    """Settings that go from low to high together."""

    name: str
    low: dict[str, str]
    high: dict[str, str]

    @classmethod
    def parsed(cls, text: str) -> "Factor":
        """Of `SETTING=LOW,HIGH`, several joined by +."""
        low, high = {}, {}
        for part in text.split("+"):
            name, equals, values = part.partition("=")
            pair = values.split(",")
            if not equals or len(pair) != 2:
                raise SystemExit(f"screen: {part!r} is no factor; expected SETTING=LOW,HIGH")
            low[name], high[name] = pair
        return cls(text, low, high)


def design(num_factors: int) -> list[tuple[bool, ...]]:
    """The rows of the design, one level a factor; every pair of columns is balanced."""
    base = min(num_factors, 4)
    rows = itertools.product((False, True), repeat=base)
    return [(*row, *(sum(row[i] for i in of) % 2 == 1 for of in _GENERATORS.get(num_factors, ()))) for row in rows]


def steps_at_equal_time(config: RunConfig, minutes: float) -> int:
    """As many steps as fit into the minutes at the speed of a short run, without its first half."""
    seconds: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for steps in (_SPEED_STEPS, 2 * _SPEED_STEPS):
            short = replace(config, schedule=replace(config.schedule, steps=steps))
            seconds.append(vitrail.train(short, Path(folder, str(steps))).train_seconds)
    return max(1, round(60 * minutes * _SPEED_STEPS / (seconds[1] - seconds[0])))


def flop_of_image(config: RunConfig) -> float:
    """Of forward and backward, averaged over the sizes that the schedule passes through."""
    model = ViT(
        ViTConfig(
            **vars(config.model), num_channels=len(config.data.mean), image_size=config.data.image_size, num_labels=10
        )
    )
    schedule, sides = config.schedule, pair(config.data.image_size)
    starts, stops = (0.0, *schedule.progressive_until), (*schedule.progressive_until, 1.0)
    total = 0.0
    for scale, start, stop in zip((*schedule.progressive_scales, 1.0), starts, stops, strict=True):
        height, width = scaled_size(sides, scale, token_stride(config.model))
        # The fused kernel of a CPU is not counted.
        with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            model(torch.zeros(1, model.config.num_channels, height, width), interpolate_pos_encoding=True)
        total += 3 * counter.get_total_flops() * (stop - start)
    return total


def effects(levels: list[tuple[bool, ...]], scores: list[float]) -> list[dict[str, float]]:
    """Of each factor: high less low, and half the width of the 95 % interval (nan where nothing is left to tell it)."""
    mean = statistics.mean(scores)
    signs = [[1 if row[i] else -1 for row in levels] for i in range(len(levels[0]))]
    found = [2 * statistics.mean(s * score for s, score in zip(column, scores, strict=True)) for column in signs]
    fitted = [mean + sum(e * column[n] / 2 for e, column in zip(found, signs, strict=True)) for n in range(len(scores))]
    left = len(scores) - 1 - len(found)
    rest = sum((a - b) ** 2 for a, b in zip(scores, fitted, strict=True))
    half = float(stats.t.ppf(0.975, left)) * 2 * math.sqrt(rest / left / len(scores)) if left > 0 else math.nan
    return [{"effect": effect, "half_width": half} for effect in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--factors", nargs="+", required=True, type=Factor.parsed, metavar="SETTING=LOW,HIGH")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float, help="of training, for each run")
    length.add_argument("--tflop", type=float, help="of forward and backward, for each run")
    length.add_argument("--epochs", type=int)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="the whole design once for each")
    parser.add_argument("--name", default="flags")
    parser.add_argument("--runs", type=Path, default=Path("runs/screen"))
    args = parser.parse_args()
    factors: list[Factor] = args.factors
    if len(factors) > MOST_FACTORS:
        parser.error(f"{len(factors)} factors; expected at most {MOST_FACTORS}, the rest in a screen of its own")
    results = Results(f"screen_{args.name}")
    rows: list[dict[str, Any]] = []
    lengths: dict[tuple[bool, ...], int] = {}
    results.answer |= {"recipe": args.recipe, "factors": [factor.name for factor in factors], "runs": rows}
    for seed, levels in itertools.product(args.seeds, design(len(factors))):
        code = "".join("-+"[level] for level in levels)
        with results.part(f"{code}, seed {seed}"):
            config = _config(args, seed, factors, levels)
            run = args.runs / args.name / f"{code}-{seed}"
            if not (run / KEPT).exists() and not args.epochs:
                lengths[levels] = lengths.get(levels) or _num_steps(args, config)
                config = replace(config, schedule=replace(config.schedule, steps=lengths[levels]))
            rows.append({"levels": code, "seed": seed, **_train(config, run, [factor.name for factor in factors])})
            print(json.dumps(rows[-1]), flush=True)
    if not results.failed:
        table = effects([tuple(c == "+" for c in row["levels"]) for row in rows], [row["accuracy"] for row in rows])
        named = [{"factor": factor.name, **found} for factor, found in zip(factors, table, strict=True)]
        results.answer["effects"] = named
        print(f"\n| {args.recipe}, {len(rows)} runs | points, high less low (95 %) |\n|---|---|")
        for factor, found in sorted(zip(factors, table, strict=True), key=lambda pair: -pair[1]["effect"]):
            print(f"| `{factor.name}` | {100 * found['effect']:+.2f} +- {100 * found['half_width']:.2f} |")
    results.end()


def _config(args: argparse.Namespace, seed: int, factors: list[Factor], levels: tuple[bool, ...]) -> RunConfig:
    """The recipe with the settings of one row of the design."""
    words = f"--evaluation.split val --evaluation.every-epochs 0 --seed {seed}".split()
    if args.epochs:
        words += ["--schedule.epochs", str(args.epochs)]
    for factor, level in zip(factors, levels, strict=True):
        for name, value in (factor.high if level else factor.low).items():
            words += [f"--{name}", *value.split()]
    return apply_settings(recipes.get(args.recipe), words, "screen")


def _num_steps(args: argparse.Namespace, config: RunConfig) -> int:
    """How long a combination is trained."""
    if args.minutes:
        return steps_at_equal_time(config, args.minutes)
    return max(1, round(args.tflop * 1e12 / flop_of_image(config) / config.data.batch_size))


def _train(config: RunConfig, run: Path, factors: list[str]) -> dict[str, Any]:
    """The score of a run, which is trained unless it is there."""
    kept = run / KEPT
    if not kept.exists():
        result = vitrail.train(config, run)
        found = {"accuracy": result.final.accuracy, "train_seconds": result.train_seconds, "steps": result.steps}
        kept.write_text(json.dumps({"factors": factors, **found}) + "\n", encoding="utf-8")
    found = json.loads(kept.read_text(encoding="utf-8"))
    if found.pop("factors") != factors:
        raise SystemExit(f"screen: {run} was trained for other factors; choose another --name")
    return found


if __name__ == "__main__":
    main()
