"""Runs of the probes: before fine-tuning as its baseline, or in its place with a run directory of their own."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from vitrail import weights
from vitrail.config import Preprocessing, RunConfig
from vitrail.data import ImageSet
from vitrail.model import ViT
from vitrail.run import RunDir, RunResult, environment
from vitrail.training.evaluate import Evaluation, evaluate
from vitrail.training.progress import Progress
from vitrail.training.setup import fingerprints, model_card
from vitrail.training.transfer.probe import (
    baseline,
    evaluation_of,
    features,
    fit_linear,
    knn_probabilities,
    put_in,
    sample,
)

# A baseline uses at most so many images of each split, and this part of the work of the training; so many
# multiplications are always allowed: less than a minute on two CPU cores.
_BASELINE_IMAGES = 5000
_BASELINE_FRACTION = 0.05
_BASELINE_MULTIPLICATIONS = 2e12
_PASSES_A_STEP = 3  # a backward pass costs two forward passes


def affordable_baseline(
    config: RunConfig,
    model: ViT,
    origin: dict[str, Any],
    train_set: ImageSet,
    held_out: ImageSet,
    preprocessing: Preprocessing,
    num_images: int,
    *,
    on_batch: Callable[[int], None] | None = None,
) -> tuple[dict[str, Any], str]:
    """Measure both probes if that is little work beside the training; let a new classifier start at the linear one.

    How many images they see follows from the run alone, never from a clock: equal runs start equally on a fast and on a
    busy machine. `affordable_count` decides.

    Args:
        origin: where the weights come from, with the audit that tells whether the classifier is new.
        num_images: that the whole schedule sees.
    Returns:
        What `baseline` returns, or nothing; and a line for people.
    """
    geometry = model.config
    tokens = geometry.grid[0] * geometry.grid[1] + geometry.num_prefix_tokens
    multiplications = tokens * sum(parameter.numel() for parameter in model.parameters())
    most = min(_BASELINE_IMAGES, config.probe.max_examples)
    count = affordable_count((len(train_set), len(held_out)), most, num_images, multiplications)
    if count < (fewest := min(10 * len(train_set.classes), len(train_set), most)):
        needed = f"{fewest} images would be more than {_BASELINE_FRACTION:.0%} of the training"
        return {}, f"baseline       left out: {needed}; --recipe knn or linear-probe measures it"
    found, linear = baseline(
        model,
        train_set,
        held_out,
        preprocessing,
        count=count,
        seed=config.seed,
        batch_size=config.evaluation.batch_size,
        num_neighbors=config.probe.num_neighbors,
        on_batch=on_batch,
    )
    audit = origin.get("audit", {})
    is_new = any(entry["name"] == "head.weight" for entry in audit.get("reinitialised", ()))
    # Where some classes only have a row of their name, the others would start at random beside them.
    is_new = is_new or any(
        entry["name"] == "head.weight" and "classes kept by name" in str(entry) and ", 0 new" not in str(entry)
        for entry in audit.get("adapted", ())
    )
    if config.probe.start_head and is_new:
        put_in(model, linear)
    line = (
        f"baseline       linear probe {found['linear']:.4f}, k-NN {found['knn']:.4f} on the frozen features: "
        f"{found['num_train']} training images, measured on {found['num_examples']} of the {found['split']} split, "
        f"{found['seconds']:.1f} s"
    )
    return found, line


def affordable_count(sizes: tuple[int, int], most: int, num_images: int, multiplications: float) -> int:
    """How many images of each split a baseline may see: all, or what a twentieth of the training's work allows.

    Args:
        sizes: of the training and the held-out set.
        most: images of each that it sees at most.
        num_images: that the training sees, forward and backward.
        multiplications: of one image's forward pass, about: its tokens times the parameters.
    """
    budget = max(_BASELINE_FRACTION * _PASSES_A_STEP * num_images, _BASELINE_MULTIPLICATIONS / multiplications)
    return most if sum(min(size, most) for size in sizes) <= budget else min(most, int(budget / 2))


def probe_run(
    config: RunConfig,
    run_dir: RunDir,
    train_set: ImageSet,
    held_out: ImageSet,
    preprocessing: Preprocessing,
    model: ViT,
    origin: dict[str, Any],
    progress: bool,
    test_set: ImageSet | None = None,
) -> RunResult:
    """Fit a probe, measure it, and leave a run directory as training does.

    A test set beside the held-out one is measured as well, and stands in evaluation.json as "test".
    The model file of a linear probe holds the probe as its classifier; that of k nearest neighbours is the trunk
    alone, without classes, since votes of training images are no part of a ViT.
    """
    device = next(model.parameters()).device
    known = {
        **environment(config, device),
        "data": fingerprints(*filter(None, (train_set, held_out, test_set))),
        "init": origin,
    }
    run_dir.start(config, known)
    few = sample(train_set, config.probe.max_examples, config.seed)
    sets = [held_out, *filter(None, [test_set])]
    bar = Progress(len(few) + (sum(map(len, sets)) if config.probe.method == "knn" else 0), enabled=progress)
    for line in origin.get("audit_lines", ()):
        bar.line(line)
    started, size = time.perf_counter(), config.evaluation.batch_size
    try:
        train = features(model, few, preprocessing, batch_size=size, on_batch=bar.advance)
        if config.probe.method == "linear":
            probe = fit_linear(train, len(train_set.classes), config.seed)
            put_in(model, probe)
            seconds, chosen = time.perf_counter() - started, {"penalty": probe.penalty}
            results = [evaluate(model, part, preprocessing, batch_size=size) for part in sets]
        else:
            num_labels, chosen, results = len(train_set.classes), {"num_neighbors": config.probe.num_neighbors}, []
            for part in sets:
                rows = features(model, part, preprocessing, batch_size=size, on_batch=bar.advance).rows
                votes = knn_probabilities(train, rows, num_labels, config.probe.num_neighbors)
                results.append(evaluation_of(votes, part))
            seconds = time.perf_counter() - started
            model.reset_head(0)
    finally:
        bar.close()
    classes = train_set.classes if model.config.num_labels else ()
    card = model_card(config, model, classes, preprocessing, results[0], 0, known)
    for path in (run_dir.best_path, run_dir.last_path):
        weights.save(path, model, card)
    measured = {**results[0].to_json(), **({"test": results[1].to_json()} if test_set is not None else {})}
    run_dir.write_evaluation(measured)
    return _result(run_dir, results[0], measured, len(few), seconds, chosen)


def _result(
    run_dir: RunDir,
    evaluation: Evaluation,
    measured: dict[str, Any],
    num_examples: int,
    seconds: float,
    chosen: Mapping[str, float],
) -> RunResult:
    score = {"epoch": 0, "accuracy": evaluation.accuracy, "loss": evaluation.loss}
    run_dir.log({"step": 0, **score, "split": evaluation.split, **chosen})
    run_dir.log_time({"step": 0, "train_seconds": round(seconds, 3)})
    return RunResult(
        run=run_dir.path,
        model=run_dir.best_path,
        epochs=0,
        steps=0,
        num_examples_seen=num_examples,
        train_seconds=seconds,
        images_per_second=num_examples / seconds,
        final=score,
        best=score,
        evaluation=measured,
        baseline={},
        deterministic=run_dir.read_environment()["deterministic"],
    )
