"""What an evaluation during a run leaves: the best score so far, the log of it, and the models it was of."""

from collections.abc import Callable
from typing import cast

from vitrail import weights
from vitrail.model import MaskedViT, ViT
from vitrail.run import Score
from vitrail.training import transfer
from vitrail.training.evaluate import Evaluation, evaluate
from vitrail.training.pretraining import Reconstruction, encoder_of, reconstruct
from vitrail.training.run import Run, State
from vitrail.training.saved_model import model_card, save_predictions


def measure(run: Run, model: ViT, on_batch: Callable[[], object]) -> Evaluation | Reconstruction:
    """Measure a model of a run on what is held out. Arguments, result and errors are those of `evaluate`."""
    held_out, preprocessing, size = run.sets.held_out, run.sets.preprocessing, run.config.evaluation.batch_size
    if not run.config.is_pretraining:
        return evaluate(model, held_out, preprocessing, batch_size=size, on_batch=on_batch, world=run.world)
    return reconstruct(
        cast(MaskedViT, model), held_out, preprocessing, run.config.pretrain, seed=run.config.data.seed,
        batch_size=size, on_batch=on_batch, world=run.world,
    )  # fmt: skip


def note_score(state: State, score: Score, *, is_early: bool) -> bool:
    """Take a score into the state; whether it is the best so far.

    Args:
        is_early: the learning rate is still high, and accuracy says little about where the run will end.
    """
    best = state.best
    better = best is None or _rank(score) > _rank(best)
    state.final, state.evaluated_step = score, state.step
    state.stale = 0 if better or is_early else state.stale + 1
    if better:
        state.best, state.best_step = score, state.step
    return better


def keep_models(
    run: Run, state: State, model: ViT, found: Evaluation | Reconstruction, score: Score, better: bool, seconds: float
) -> None:
    """Log an evaluation and write the models that it was of; the best one first."""
    times = {"train_seconds": round(state.train_seconds, 3), "evaluation_seconds": round(seconds, 3)}
    known = {name: value for name, value in vars(score).items() if value is not None}
    run.run_dir.log({"step": state.step, **known, "split": found.split})
    run.run_dir.log_time({"step": state.step, **times})
    if isinstance(found, Reconstruction):
        plain, classes = encoder_of(model), ()
    else:
        plain, classes = transfer.merge_lora(model), run.sets.train.classes
    card = model_card(run.config, plain, classes, run.sets.preprocessing, found, state.step, run.environment)
    if better:
        weights.save(run.run_dir.best_path, plain, card)
        if isinstance(found, Reconstruction):
            run.run_dir.write_reconstruction(found.to_json())
        else:
            run.run_dir.write_evaluation(found.to_json())
            save_predictions(run.run_dir, found, run.config.data.spec, state.step)
    weights.save(run.run_dir.last_path, plain, card)


def _rank(score: Score) -> tuple[float, float]:
    """Larger for the better one."""
    return score.accuracy or 0.0, -score.loss
