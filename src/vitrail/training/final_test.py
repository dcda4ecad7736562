"""The last thing in a run whose best model was chosen on the val split: that model, measured once on the test split."""

from collections.abc import Callable

from vitrail import weights
from vitrail.config import Preprocessing
from vitrail.data import ImageSet
from vitrail.distributed import World
from vitrail.model import ViT
from vitrail.run import RunDir
from vitrail.training.evaluate import Evaluation, evaluate
from vitrail.training.saved_model import save_predictions


def measure_best(
    run_dir: RunDir,
    world: World,
    like: ViT,
    test_set: ImageSet,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    on_batch: Callable[[], object] | None = None,
) -> Evaluation | None:
    """Measure best.safetensors and add what it reaches to evaluation.json, as "test". All processes must call it.

    Args:
        like: a plain model of the same geometry, on the device.
        on_batch: as of `evaluate`.
    Returns:
        None where it was measured before: a run that is resumed at its end does not look a second time.
    Raises:
        EvaluationStopped: on_batch asked for it.
    """
    if world.run_on_first(lambda: "test" in run_dir.read_evaluation()):
        return None
    device = next(like.parameters()).device
    step = -1
    if world.is_first:
        best, card = weights.load(run_dir.best_path, device=device)
        step = card.metrics.get("step", -1)
    else:
        best = weights.build_model(like.config, like.state_dict(), device)
    world.broadcast_weights(best)
    result = evaluate(best, test_set, preprocessing, batch_size=batch_size, on_batch=on_batch, world=world)
    if world.is_first:
        run_dir.write_evaluation({**run_dir.read_evaluation(), "test": result.to_json()})
        save_predictions(run_dir, result, run_dir.read_config().data.spec, step)
    return result
