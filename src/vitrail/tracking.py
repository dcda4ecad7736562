"""The log of a run in other people's viewers: CSV, TensorBoard, Weights & Biases, MLflow, Trackio.

metrics.jsonl stays the truth; a tracker is a view of it, live or afterwards. One that fails says so once and is left
alone: it never ends a run. None of their packages is imported unless it is asked for.
"""

import contextlib
import csv
import importlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from vitrail import fsio
from vitrail.errors import ConfigError, VitrailError, import_hint, shown

Record = Mapping[str, Any]
_COLUMNS = ("step", "epoch", "split", "loss", "accuracy", "lr")


class Tracker(Protocol):
    """What shows records."""

    def write(self, records: Sequence[Record]) -> None:
        """Take objects of metrics.jsonl, in their order."""
        ...

    def close(self) -> None:
        """Wait until everything is where it belongs."""
        ...


def scalars(record: Record) -> dict[str, float]:
    """The values of an object of metrics.jsonl by the names that viewers show: train/loss, val/accuracy, ..."""
    group = record.get("split", "train")
    names = ("loss", "accuracy") if "split" in record else ("loss", "lr")
    return {f"{group}/{name}": float(record[name]) for name in names if isinstance(record.get(name), int | float)}


class CsvFile:
    """One row a record: a table that opens anywhere. What stood under its name is replaced.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._has_begun = path, False

    def write(self, records: Sequence[Record]) -> None:
        """Add rows. Raises SaveError."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        for record in records:
            if scalars(record):
                table.writerow([{"split": "train", **record}.get(name, "") for name in _COLUMNS])
        if self._has_begun:
            fsio.append_bytes(self.path, text.getvalue().encode())
        else:
            fsio.write_bytes(self.path, (",".join(_COLUMNS) + "\n" + text.getvalue()).encode())
            self._has_begun = True

    def close(self) -> None:
        """Nothing is left to do."""


class TensorBoard:
    """Event files. Source: torch.utils.tensorboard.

    Args:
        folder: for `tensorboard --logdir`.
        first_step: what a run that goes on writes first; later events of an interrupted attempt are hidden.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter
        self._writer = writer(str(folder), purge_step=first_step or None)

    def write(self, records: Sequence[Record]) -> None:
        for record in records:
            for name, value in scalars(record).items():
                self._writer.add_scalar(name, value, record["step"])
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of wandb; its own settings come from its environment variables, as WANDB_MODE=offline.

    Args:
        name: of the run.
        config: settings by name.
    """

    def __init__(self, name: str, config: dict[str, Any]) -> None:
        wandb = importlib.import_module("wandb")
        self._run = wandb.init(project="vitrail", name=name, config=config)
        # Its own count only rises; this one is the run's, whatever is logged in which order.
        self._run.define_metric("*", step_metric="step")

    def write(self, records: Sequence[Record]) -> None:
        for record in records:
            if values := scalars(record):
                self._run.log({**values, "step": record["step"]})

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """A run of MLflow, where MLFLOW_TRACKING_URI says.

    Args:
        name: of the run.
        config: settings by name.
    """

    def __init__(self, name: str, config: dict[str, Any]) -> None:
        client = importlib.import_module("mlflow").MlflowClient()
        found = client.get_experiment_by_name("vitrail")
        experiment = found.experiment_id if found else client.create_experiment("vitrail")
        self._client, self._id = client, client.create_run(experiment, run_name=name).info.run_id
        for setting, value in config.items():
            client.log_param(self._id, setting, str(value)[:500])

    def write(self, records: Sequence[Record]) -> None:
        for record in records:
            for name, value in scalars(record).items():
                self._client.log_metric(self._id, name, value, step=record["step"])

    def close(self) -> None:
        self._client.set_terminated(self._id)


class Trackio:
    """A run of Trackio.

    Args:
        name: of the run.
        config: settings by name.
    """

    def __init__(self, name: str, config: dict[str, Any]) -> None:
        self._run = importlib.import_module("trackio").init(project="vitrail", name=name, config=config, embed=False)

    def write(self, records: Sequence[Record]) -> None:
        for record in records:
            if values := scalars(record):
                self._run.log(values, step=record["step"])

    def close(self) -> None:
        self._run.finish()


_MAKERS: dict[str, Callable[[Path, dict[str, Any], int], Tracker]] = {
    "csv": lambda run, config, first_step: CsvFile(run / "metrics.csv"),
    "tensorboard": lambda run, config, first_step: TensorBoard(run / "tensorboard", first_step),
    "wandb": lambda run, config, first_step: WeightsAndBiases(_name(run), config),
    "mlflow": lambda run, config, first_step: MLflow(_name(run), config),
    "trackio": lambda run, config, first_step: Trackio(_name(run), config),
}
NAMES = tuple(_MAKERS)
_MODULES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb", "mlflow": "mlflow", "trackio": "trackio"}


def check_trackers(names: Iterable[str]) -> None:
    """Raise ConfigError where there is no such tracker, or its package is not installed; before anything is written."""
    for name in names:
        if name not in _MAKERS:
            raise ConfigError(f"There is no tracker {name!r}.", expected=f"one of {', '.join(NAMES)}")
        if name in _MODULES:
            _imported(_MODULES[name], name)


def export(name: str, run: Path, config: dict[str, Any], records: Sequence[Record]) -> None:
    """Send a whole log to one of NAMES.

    Args:
        run: the run directory, in which files are written and after which runs are called.
        config: the settings of the run by name.
        records: the objects of its metrics.jsonl.
    Raises:
        ConfigError: as of `check_trackers`, or the tracker failed.
        SaveError: its file cannot be written.
    """
    check_trackers([name])
    try:
        tracker = _MAKERS[name](run, config, 0)
        tracker.write(records)
        tracker.close()
    except VitrailError:
        raise
    except Exception as error:
        raise ConfigError(f"{name} failed.", got=shown(f"{type(error).__name__}: {error}", 400)) from error


class Live:
    """Trackers of a run that is going on: what they raise is said once, and that one is left alone.

    Args:
        names: some of NAMES.
        run, config: as of `export`.
        first_step: what is written first; 0: from the start.
        before: what the log holds already, for a table that is written anew.
        on_note: told of one that failed.
    """

    def __init__(
        self,
        names: Iterable[str],
        run: Path,
        config: dict[str, Any],
        first_step: int,
        before: Sequence[Record],
        on_note: Callable[[str], object],
    ) -> None:
        self._trackers, self._on_note = dict[str, Tracker](), on_note
        for name in names:
            with self._told(name):
                self._trackers[name] = _MAKERS[name](run, config, first_step)
                if name == "csv":
                    self._trackers[name].write(before)

    def __call__(self, record: Record) -> None:
        """Show a record everywhere."""
        for name, tracker in list(self._trackers.items()):
            with self._told(name):
                tracker.write([record])

    def close(self) -> None:
        """Let every tracker finish."""
        for name, tracker in list(self._trackers.items()):
            with self._told(name):
                tracker.close()

    @contextlib.contextmanager
    def _told(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever another library does, the run goes on
            self._trackers.pop(name, None)
            why = error.what if isinstance(error, VitrailError) else f"{type(error).__name__}: {error}"
            self._on_note(f"{name} failed and is left alone, the run goes on: {shown(why, 300)}")


def _name(run: Path) -> str:
    return run.resolve().name


def _imported(module: str, package: str) -> None:
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"{package} is not installed.", got=error, do=import_hint(package)) from error
