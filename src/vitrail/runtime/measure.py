"""Short measurements: how fast engines are here, and how many images at a time are fastest."""

import time
from collections.abc import Callable, Mapping

import torch

from vitrail.model import ViT
from vitrail.run.environment import cpu_name
from vitrail.runtime.engines import Runtime
from vitrail.runtime.translated import Translated, probe_images

WORTH_MEASURING_S = 30.0
"""Work on all images from which on a measurement of a few seconds pays."""
_TURN_S = 0.5
_ROUNDS = 3
_LARGEST_BATCH = 512
_LONGEST_BATCH_S = 2.0
_NEARLY = 0.97


def machine(model: ViT) -> str:
    """What a measurement holds for: the processor and its threads, or the GPU.

    Virtual machines give processors that differ in their instructions the same name.
    """
    device = next(model.parameters()).device
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{cpu_name()} ({torch.backends.cpu.get_cpu_capability()}), {torch.get_num_threads()} threads"


def seconds_each(runtime: Runtime, model: ViT, image_size: tuple[int, int]) -> float:
    """Seconds an image, two at a time, the better of two turns."""
    images = probe_images(model, image_size, 2).to(next(model.parameters()).device)
    return min(_timed(runtime, images) for _ in range(2)) / 2


def rates_of(runtimes: Mapping[str, Runtime], translated: Translated, seconds: float) -> dict[str, float]:
    """Images per second of engines on the CPU that take turns, the best turn of each.

    Args:
        runtimes: by name.
        translated: whose model and image size they run.
        seconds: that an image takes, about.
    """
    size = max(1, min(32, round(_TURN_S / seconds)))
    images = probe_images(translated.model, translated.image_size, size)
    best = dict.fromkeys(runtimes, 0.0)
    for number in range(_ROUNDS + 1):
        for name, runtime in runtimes.items():
            passed = _timed(runtime, images)
            if number:  # the first turn is for warming up
                best[name] = max(best[name], len(images) / passed)
    return best


def find_batch_size(
    runtime: Runtime,
    name: str,
    model: ViT,
    image_size: tuple[int, int],
    *,
    num_images: int,
    default: int,
    on_wait: Callable[[str], object] = lambda _: None,
) -> int:
    """How many images at a time: the fewest that are nearly as fast as any, found by doubling, once a machine.

    Args:
        runtime: what runs the model.
        name: of it, with its arithmetic.
        model: whose device counts.
        image_size: height and width of the input.
        num_images: how many there are; where they are little work, nothing is measured.
        default: without a measurement.
        on_wait: told what takes a while.
    """
    if seconds_each(runtime, model, image_size) * num_images < WORTH_MEASURING_S:
        return default
    notes = Translated(model, image_size)
    note = f"images at a time, {name}, on {machine(model)}, torch {torch.__version__}"
    known = notes.notes.get(note)
    if isinstance(known, int) and known >= 1:
        return known
    on_wait("measuring how many images at a time are fastest here (once)")
    rates: dict[int, float] = {}
    size = 1
    while size <= min(_LARGEST_BATCH, num_images):
        try:
            images = probe_images(model, image_size, size).to(next(model.parameters()).device)
            passed = min(_timed(runtime, images) for _ in range(_ROUNDS))
        except torch.cuda.OutOfMemoryError:
            break
        rates[size] = size / passed
        size *= 2
        if 2 * passed > _LONGEST_BATCH_S:
            break
    enough = _NEARLY * max(rates.values(), default=0.0)
    found = next((size for size, rate in rates.items() if rate >= enough), 1)
    notes.note(note, found)
    return found


def _timed(runtime: Runtime, images: torch.Tensor) -> float:
    start = time.perf_counter()
    runtime(images).cpu()
    return time.perf_counter() - start
