"""What a person is told while a run goes on: how long it will take, a bar that knows it, and a line each epoch.

The time is that of the run's own steps. Where images grow during a run, forward passes at each size, timed before the
first step, say what the later steps will cost; what does not depend on the size (input, optimiser) is added as it is.
"""

import time
from collections.abc import Mapping, Sequence

from torch import Tensor

from vitrail import distributed
from vitrail.config import RunConfig
from vitrail.config.checks import pair
from vitrail.config.vit import token_stride
from vitrail.model import ViT
from vitrail.progress import duration
from vitrail.training.onednn_linear import onednn_linear
from vitrail.training.progress import Progress
from vitrail.training.run import Run, State
from vitrail.training.schedule import Timetable, scaled_size
from vitrail.training.transfer import seconds_per_image

BACKWARD = 2
"""A backward pass costs two forward passes."""
_WARM_UP = 1
_LEAST_STEPS, _LEAST_SECONDS = 2, 2.0
_MEMORY = 0.05
_TIMED_IMAGES = 64


def stages(config: RunConfig, times: Timetable) -> list[tuple[int, float]]:
    """Which step ends each size of the training images, and its scale; the last one ends the run."""
    schedule, schedule_steps, total_steps = config.schedule, times.schedule_steps, times.total_steps
    until = [-int(-end * schedule_steps // 1) for end in schedule.progressive_until]
    found = [(min(end, total_steps), s) for end, s in zip(until, schedule.progressive_scales, strict=True)]
    kept = [(end, s) for (end, s), before in zip(found, [0, *(e for e, _ in found)], strict=False) if end > before]
    return kept if kept and kept[-1][0] == total_steps else [*kept, (total_steps, 1.0)]


def sizes_line(config: RunConfig, steps: Sequence[tuple[int, float]]) -> str:
    """Where the images of a run grow: from which step on they have which size."""
    said, first = list[str](), 1
    for end, scale in steps:
        height, width = scaled_size(pair(config.data.image_size), scale, token_stride(config.model))
        said.append(f"{height}x{width} from step {first}")
        first = end + 1
    return f"images grow    {', '.join(said)}"


def costs(config: RunConfig) -> float:
    """How many forward passes of the whole model a step takes as long as."""
    if config.optim.freeze == "trunk":
        return 1
    trained = (config.optim.train_last or config.model.num_hidden_layers) / config.model.num_hidden_layers
    return (trained if config.compute.cache_tokens else 1) + BACKWARD * trained


def pass_seconds(config: RunConfig, model: ViT, grows: Sequence[tuple[int, float]], linear: str) -> dict[float, float]:
    """Seconds of a step's forward and backward pass at each scale, by forward passes that are timed now."""
    found: dict[float, float] = {}
    num_images = config.data.batch_size
    for scale in {scale for _, scale in grows}:
        size = scaled_size(pair(config.data.image_size), scale, token_stride(config.model))
        with onednn_linear(linear == "onednn"):
            found[scale] = costs(config) * num_images * seconds_per_image(model, min(num_images, _TIMED_IMAGES), size)
    return found


class Estimate:
    """How long the rest of a run takes.

    Args:
        stages: as `stages` gives them.
        passes: seconds of a step's forward and backward pass at each scale; empty: in proportion to the pixels.
        evaluations: the steps after which the model is evaluated.
        step_share: images of an evaluation over those of a step, times the part of a step that a forward pass is.
    """

    def __init__(
        self,
        stages: Sequence[tuple[int, float]],
        passes: Mapping[float, float],
        evaluations: Sequence[int],
        step_share: float,
    ) -> None:
        self.stages, self.evaluations, self.step_share = stages, evaluations, step_share
        self.passes = dict(passes) or {scale: scale**2 for _, scale in stages}
        self.is_measured = bool(passes)
        self.evaluation_seconds: float | None = None
        self.count, self._scale, self._mean, self._at_scale = 0, 0.0, 0.0, 0

    def took(self, scale: float, seconds: float) -> None:
        """Learn from a step."""
        self.count += 1
        if self.count <= _WARM_UP:
            return
        if scale != self._scale:
            self._scale, self._at_scale = scale, 0
        self._at_scale += 1
        self._mean += max(1 / self._at_scale, _MEMORY) * (seconds - self._mean)

    def step_seconds(self, scale: float) -> float:
        """Of a step with images of this scale. At least one step must have been learnt from."""
        now, then = self.passes[self._scale], self.passes[scale]
        if self.is_measured and self._mean > now:
            return self._mean + then - now
        return self._mean * then / now

    def left(self, step: int) -> tuple[float, float] | None:
        """Seconds of training and of evaluation after so many steps; None: not known yet."""
        if not self._at_scale:
            return None
        training, begins = 0.0, step
        for end, scale in self.stages:
            if end > begins:
                training += (end - begins) * self.step_seconds(scale)
                begins = end
        each = self.evaluation_seconds
        if each is None:
            each = self.step_seconds(self.stages[-1][1]) / self.stages[-1][1] ** 2 * self.step_share
        return training, each * sum(end > step for end in self.evaluations)


def estimate_of(run: Run) -> Estimate:
    """The estimate of a run; where its images grow and somebody looks, forward passes at each size are timed now."""
    config, times, model = run.config, run.timetable, run.train_step.model
    grows = stages(config, times)
    timed = len(grows) > 1 and run.progress and not distributed.is_spread(model.state_dict())
    passes = pass_seconds(config, model, grows, run.train_step.linear) if timed else {}
    every = config.evaluation.every_epochs * times.passes_per_epoch * times.steps_per_epoch
    share = len(run.sets.held_out) / config.data.batch_size / costs(config)
    return Estimate(grows, passes, evaluated_steps(every, times.total_steps), share)


class Reporter:
    """Shows a run while it goes on: a bar over its images, and lines above it.

    Args:
        run: what is shown.
        state: where it stands.
    """

    def __init__(self, run: Run, state: State) -> None:
        times = run.timetable
        self.bar = Progress(times.num_images(times.total_steps), done=state.num_examples_seen, enabled=run.progress)
        self.estimate, self.epochs, self.world, self.step = estimate_of(run), times.epochs, run.world, state.step
        self._began, self._has_told = time.monotonic(), False
        self._images, self._with_loss, self._seconds = 0, 0, 0.0
        self._loss: Tensor | None = None
        self.named: set[str] = set()  # unreadable images, each told once
        self.bar.left = self._left

    def stepped(self, step: int, scale: float, size: int, seconds: float, loss: Tensor | None) -> None:
        """A step of `size` images is done; `loss`: this process's addend of its mean loss; None: it was skipped."""
        self.step = step
        self._images, self._seconds = self._images + size, self._seconds + seconds
        if loss is not None:
            self._loss = loss * size if self._loss is None else self._loss + loss * size
            self._with_loss += size
        self.estimate.took(scale, seconds)
        self.bar.advance(size)
        if not self._has_told and self.estimate.count > _LEAST_STEPS:
            passed = time.monotonic() - self._began
            if passed >= _LEAST_SECONDS and (left := self.estimate.left(step)):
                self._has_told = True
                part = f", {duration(left[1])} of it to evaluate" if left[1] >= 1 else ""
                self.bar.line(f"time           about {duration(sum(left))}{part}; timed on {self.estimate.count} steps")

    def epoch(self, number: float, evaluated: str = "") -> None:
        """Write the line of an epoch, and begin the next one. All processes must call it.

        Args:
            evaluated: what an evaluation found, where there was one.
        """
        if not self._images and not evaluated:
            return
        parts = [f"epoch {number:g}/{self.epochs}"]
        if self._loss is not None:
            loss = self._loss / self._with_loss
            mean = float(loss) if self.world.size == 1 else float(self.world.sum(loss.double()))
            parts.append(f"loss {mean:.4f}")
        if evaluated:
            parts.append(evaluated)
        if self._images:
            parts.append(f"{self._seconds:.1f} s, {self._images / self._seconds:.0f} images/s")
        self.bar.line("  ".join(parts))
        self._images, self._with_loss, self._seconds, self._loss = 0, 0, 0.0, None

    def _left(self) -> float | None:
        left = self.estimate.left(self.step)
        return sum(left) if left else None


def evaluated_steps(every: int, total_steps: int) -> list[int]:
    """After which steps a model is evaluated: every so many, 0 for none, and at the end."""
    return sorted({*(range(every, total_steps + 1, every) if every else ()), total_steps})
