"""Going on with a run: from its newest whole checkpoint, with the same data, as it was or longer."""

from dataclasses import replace
from typing import Any

from vitrail.config import ScheduleConfig
from vitrail.errors import ConfigError, RunError
from vitrail.run import Origin
from vitrail.training.checkpointing import Checkpointer
from vitrail.training.loop import out_of_patience
from vitrail.training.run import Run, State, check_same_data
from vitrail.training.schedule import timetable


def take_up(run: Run, checkpointer: Checkpointer) -> tuple[Run, State, list[str]]:
    """Go on where a run was interrupted, or make a finished one longer. All processes must call it.

    Returns:
        The run, which knows where its weights came from; its state; and what is to be told about it.
    Raises:
        RunError: the data or the teacher are others than before, or no checkpoint is whole.
        ConfigError: the run would be shorter than before.
    """
    stored = run.world.run_on_first(run.run_dir.read_environment)
    check_same_data(run.config.data.spec, stored["data"], run.environment.data)
    check_same_teacher(stored.get("teacher"), run.environment.teacher)
    run = replace(run, environment=replace(run.environment, init=Origin.from_json(stored["init"])))
    before = timetable(run.world.run_on_first(run.run_dir.read_config), run.timetable.num_examples).schedule_steps
    now = run.timetable.schedule_steps
    check_not_shorter(before, now)
    state, lines = checkpointer.restore()
    state = state or State()
    if now > before:
        state.stale = 0  # more was asked for
        run.world.run_on_first(lambda: run.run_dir.write_config(run.config))
        lines.append(
            f"longer: {now} steps instead of {before}; from step {state.step} on, learning rate and image sizes follow "
            f"a schedule of {now} steps"
        )
    elif state.step >= run.timetable.total_steps or out_of_patience(run, state):
        lines = [finished_line(state.step, now, run.config.schedule, run.timetable.epochs)]
    return run, state, lines


def check_same_teacher(stored: dict[str, Any] | None, found: dict[str, Any] | None) -> None:
    """Raise RunError when the teacher is not the one that the run was started with."""
    before, now = (str(about["sha256"])[:16] if about else "no teacher" for about in (stored, found))
    if before != now:
        raise RunError(
            "The teacher is not the one that this run was started with.",
            got=now,
            expected=before,
            do="Name the same weights with --distill.teacher, or start a new run.",
        )


def check_not_shorter(before: int, now: int) -> None:
    """Raise ConfigError when a run that goes on would have fewer steps than it was started, or extended, with."""
    if now < before:
        raise ConfigError(
            "A resumed run can be made longer, not shorter.",
            got=f"{now} steps",
            expected=f"at least {before}, as before",
            do="Leave --schedule.epochs and --schedule.steps out, or stop earlier with --schedule.max-steps.",
        )


def finished_line(step: int, schedule_steps: int, schedule: ScheduleConfig, epochs: int) -> str:
    """What a run says that is resumed and has nothing left to do."""
    more = f"--schedule.epochs above {epochs}, or --schedule.steps above {schedule_steps}"
    if schedule.max_steps and schedule.max_steps < schedule_steps:
        more = "--schedule.max-steps 0"
    return (
        f"the run is finished: {step} of {schedule_steps} steps are done, and nothing is trained now; to train it "
        f"longer: --resume {more}"
    )
