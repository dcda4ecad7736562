"""Runs of the probes: before fine-tuning as its baseline, or in its place with a run directory of their own."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from vitrail import weights
from vitrail.config import RunConfig
from vitrail.model import ViT
from vitrail.run import Baseline, Environment, Origin, RunDir, RunResult, Score, describe_environment
from vitrail.terminal import say
from vitrail.training.calibration import calibrate_file, calibration_line
from vitrail.training.evaluate import Evaluation, evaluate
from vitrail.training.progress import Progress
from vitrail.training.run import Run, Sets, fingerprints
from vitrail.training.saved_model import model_card, save_predictions
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


def measure_baseline(run: Run, on_batch: Callable[[int], None]) -> tuple[Baseline | None, str]:
    """Measure both probes if that is little work beside the training; let a new classifier start at the linear one.

    How many images they see follows from the run alone, never from a clock: equal runs start equally on a fast and on a
    busy machine. `affordable_count` decides.

    Args:
        on_batch: called with the number of images after each batch; may raise to stop.
    Returns:
        What was measured, None where it was not; and a line for people.
    """
    config, sets, model = run.config, run.sets, run.train_step.model
    geometry, origin = model.config, run.environment.init
    tokens = geometry.grid[0] * geometry.grid[1] + geometry.num_prefix_tokens
    multiplications = tokens * sum(parameter.numel() for parameter in model.parameters())
    most = min(_BASELINE_IMAGES, config.probe.max_examples)
    num_images = run.timetable.num_images(run.timetable.schedule_steps)
    count = affordable_count((len(sets.train), len(sets.held_out)), most, num_images, multiplications)
    if count < (fewest := min(10 * len(sets.train.classes), len(sets.train), most)):
        needed = f"{fewest} images would be more than {_BASELINE_FRACTION:.0%} of the training"
        return None, f"baseline       left out: {needed}; --recipe knn or linear-probe measures it"
    found, linear = baseline(
        model,
        sets.train,
        sets.held_out,
        sets.preprocessing,
        count=count,
        seed=config.seed,
        batch_size=config.evaluation.batch_size,
        num_neighbors=config.probe.num_neighbors,
        on_batch=on_batch,
    )
    if config.probe.start_head and origin and origin.has_new_classifier:
        put_in(model, linear)
    line = (
        f"baseline       linear probe {found.linear:.4f}, k-NN {found.knn:.4f} on the frozen features: "
        f"{found.num_train} training images, measured on {found.num_examples} of the {found.split} split, "
        f"{found.seconds:.1f} s"
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


def fit_probe(
    config: RunConfig,
    run_dir: RunDir,
    sets: Sets,
    model: ViT,
    origin: Origin | None,
    *,
    progress: bool,
) -> RunResult:
    """Fit a probe, measure it, and leave a run directory as training does.

    A test set beside the held-out one is measured as well, and stands in evaluation.json as "test".
    The model file of a linear probe holds the probe as its classifier; that of k nearest neighbours is the trunk
    alone, without classes, since votes of training images are no part of a ViT.
    """
    train_set, preprocessing, device = sets.train, sets.preprocessing, next(model.parameters()).device
    known = describe_environment(config, device, data=fingerprints(sets), init=origin)
    run_dir.start(config, known)
    few = sample(train_set, config.probe.max_examples, config.seed)
    measured_sets = [part for part in (sets.held_out, sets.test) if part is not None]
    bar = Progress(len(few) + (sum(map(len, measured_sets)) if config.probe.method == "knn" else 0), enabled=progress)
    for line in origin.audit_lines if origin else ():
        bar.line(line)
    started, size = time.perf_counter(), config.evaluation.batch_size
    try:
        train = features(model, few, preprocessing, batch_size=size, on_batch=bar.advance)
        if config.probe.method == "linear":
            probe = fit_linear(train, len(train_set.classes), config.seed)
            put_in(model, probe)
            seconds, chosen = time.perf_counter() - started, {"penalty": probe.penalty}
            results = [evaluate(model, part, preprocessing, batch_size=size) for part in measured_sets]
        else:
            num_labels, chosen, results = len(train_set.classes), {"num_neighbors": config.probe.num_neighbors}, []
            for part in measured_sets:
                found = features(model, part, preprocessing, batch_size=size, on_batch=bar.advance)
                votes = knn_probabilities(train, found.rows, num_labels, config.probe.num_neighbors)
                results.append(evaluation_of(votes, found.examples or part))
            seconds = time.perf_counter() - started
            model.reset_head(0)
    finally:
        bar.close()
    classes = train_set.classes if model.config.num_labels else ()
    card = model_card(config, model, classes, preprocessing, results[0], 0, known)
    for path in (run_dir.best_path, run_dir.last_path):
        weights.save(path, model, card)
    measured = {**results[0].to_json(), **({"test": results[1].to_json()} if len(results) > 1 else {})}
    run_dir.write_evaluation(measured)
    for result in results:
        save_predictions(run_dir, result, config.data.spec, 0)
    if results[0].split == "val" and (found := calibrate_file(run_dir.best_path, run_dir.predictions_path("val"))):
        for line in (calibration_line(found),) if progress else ():
            say(line, prefix="")
    return _result(run_dir, results[0], measured, len(few), seconds, chosen, known)


def _result(
    run_dir: RunDir,
    evaluation: Evaluation,
    measured: dict[str, Any],
    num_examples: int,
    seconds: float,
    chosen: Mapping[str, float],
    environment: Environment,
) -> RunResult:
    score = Score(epoch=0, accuracy=evaluation.accuracy, loss=evaluation.loss)
    run_dir.log({"step": 0, **vars(score), "split": evaluation.split, **chosen})
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
        baseline=None,
        deterministic=environment.deterministic,
    )
