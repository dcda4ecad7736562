"""What a report is about: a run directory, or a model file alone. Everything but what was answered image by image."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, cast

from vitrail.config import Preprocessing, RunConfig, to_json
from vitrail.config.settings import flat_settings
from vitrail.config.vit import token_stride
from vitrail.errors import shell_word
from vitrail.reading import open_regular, parsed_json
from vitrail.reporting.curves import Curves, chosen_on, read_curves
from vitrail.reporting.privacy import Private
from vitrail.run import Baseline, RunDir
from vitrail.run.lock import is_held
from vitrail.weights.card import Card, read_card, stored_parameters

_MOST_LINE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A setting that is another one than the recipe's; the values as JSON has them."""

    name: str
    value: Any
    of_recipe: Any


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is reported on.

    Args:
        title: the run or the model, as it was named; of a path that leads elsewhere its last part alone.
        state: of a run, or that there is none.
        model: the architecture in a few words.
        parameters: 0: unknown.
        metrics: what the model file says was measured.
        chosen_on: the split on which the best epoch was chosen among several; empty: nothing was chosen.
        num_test: how often the test split was measured; None: unknown, as for a model without its run.
        data: by split: images, fingerprint, unreadable files.
        command: words after `vitrail`.
        environment: what it ran on.
        repeats: what repeats exactly, and why the rest does not, a sentence each.
        hashes: SHA-256 of what was measured with.
    """

    title: str
    state: Literal["finished", "running", "interrupted", "model"]
    model: str
    parameters: int
    classes: tuple[str, ...]
    recipe: str
    settings: tuple[Setting, ...]
    metrics: dict[str, Any]
    chosen_on: str
    num_test: int | None
    baseline: Baseline | None
    curves: Curves | None
    data: dict[str, Any]
    data_spec: str
    command: tuple[str, ...]
    environment: dict[str, str]
    repeats: tuple[str, ...]
    calibration: dict[str, Any] | None
    sizes: str


def of_run(run: RunDir, recipe: RunConfig | None, private: Private) -> Subject:
    """What a run directory says.

    Args:
        recipe: that the run started from; None: unknown.
    Raises:
        RunError, ConfigError: it is damaged.
    """
    config = run.read_config()
    private.hide(run.path, config.data.spec or ".", config.data.root or ".", Path.home() / "x")
    environment = run.read_environment() if (run.path / "environment.json").exists() else {"data": {}, "init": {}}
    card = read_card(run.best_path) if run.best_path.is_file() else None
    curves = read_curves(run, config, environment)
    geometry = card.geometry if card else config.model
    return Subject(
        title=private.path(str(run.path)),
        state=_state(run, config, curves),
        model=_model(geometry, config.data.image_size, environment.get("teacher", {}).get("label", "")),
        parameters=stored_parameters(run.best_path) if card else 0,
        classes=card.classes if card else (),
        recipe=config.recipe,
        settings=_settings(config, recipe, private),
        metrics=card.metrics if card else {},
        chosen_on=chosen_on(curves),
        num_test=_num_test(run, curves),
        baseline=run.read_baseline(),
        curves=curves,
        data=_data(environment["data"]),
        data_spec=private.path(config.data.spec),
        command=_command(environment.get("command"), private),
        environment=_environment(environment, private),
        repeats=_repeats(environment),
        calibration=_calibration(card),
        sizes=_sizes(config.data.image_size),
    )


def of_model(name: str, card: Card, path: Path | None, private: Private) -> Subject:
    """What a model file says.

    Args:
        name: as the user named it.
        path: of a vitrail file; None: it came from another library.
    """
    told = card.provenance
    versions = told.get("versions")
    versions = cast(dict[str, Any], versions) if isinstance(versions, dict) else {}
    private.hide(Path.home() / "x")
    data = told.get("data")
    recipe = str(card.recipe.get("recipe", ""))
    return Subject(
        title=private.path(name),
        state="model",
        model=_model(card.geometry, card.geometry.image_size, card.teacher),
        parameters=stored_parameters(path) if path else 0,
        classes=card.classes,
        recipe=recipe,
        settings=(),
        metrics=card.metrics,
        chosen_on="",
        num_test=None,
        baseline=None,
        curves=None,
        data=_data(cast(dict[str, Any], data) if isinstance(data, dict) else {}),
        data_spec=private.path(_trained_on(card)),
        command=(),
        environment={f"{one} (training)": str(v) for one, v in versions.items() if v},
        repeats=(),
        calibration=_calibration(card),
        sizes=_sizes(card.geometry.image_size),
    )


def _model(geometry: Any, image_size: Any, teacher: str) -> str:
    return (
        f"{geometry.kind}, {geometry.num_hidden_layers} layers of width {geometry.hidden_size}, patches of "
        f"{_sizes(token_stride(geometry))} pixels, images of {_sizes(image_size)}"
        f"{f', {teacher}' if teacher else ''}"
    )


def _sizes(size: Any) -> str:
    return "x".join(map(str, reversed(size))) if isinstance(size, tuple | list) else f"{size}x{size}"


def _trained_on(card: Card) -> str:
    data: Any = card.recipe.get("data")
    return str(cast(dict[str, Any], data).get("spec", "")) if isinstance(data, dict) else ""


def _calibration(card: Card | None) -> dict[str, Any] | None:
    return to_json(card.calibration) if card and card.calibration else None


def _state(run: RunDir, config: RunConfig, curves: Curves) -> Literal["finished", "running", "interrupted"]:
    held = is_held(run.path)
    if held:
        return "running"
    if config.probe.method != "none":
        return "finished" if run.best_path.is_file() else "interrupted"
    at_end = curves.evaluations and curves.evaluations[-1].step >= curves.last_step
    done = curves.last_step >= curves.total_steps or bool(config.evaluation.patience)
    return "finished" if held is False and at_end and done else "interrupted"


def _num_test(run: RunDir, curves: Curves) -> int:
    """How often the test split was measured: during the run, at its end, and by `eval` since."""
    count = sum(one.split == "test" for one in curves.evaluations)
    if (run.path / "evaluation.json").is_file():
        count += "test" in run.read_evaluation()
    since = 0
    try:
        with open_regular(run.path / "evaluations.jsonl") as file:
            for line in file.read(_MOST_LINE).splitlines():
                since += cast(dict[str, Any], parsed_json(line)).get("split") == "test"
    except (OSError, ValueError, AttributeError):
        pass
    return max(count + since, run.predictions_path("test").is_file())


def _settings(config: RunConfig, recipe: RunConfig | None, private: Private) -> tuple[Setting, ...]:
    """What differs from the recipe; nothing where that is unknown."""
    if recipe is None:
        return ()
    ours, theirs = flat_settings(to_json(config)), flat_settings(to_json(recipe))
    if config.init.weights:  # architecture and preprocessing come from them
        own = {f"data.{field.name}" for field in fields(Preprocessing)}
        ours = {name: value for name, value in ours.items() if name not in own and not name.startswith("model.")}
    return tuple(
        Setting(name=name.replace("_", "-"), value=private.value(value), of_recipe=theirs.get(name))
        for name, value in ours.items()
        if value != theirs.get(name) and name != "recipe"
    )


def _data(found: dict[str, Any]) -> dict[str, Any]:
    """Count, fingerprint and unreadable files of each split, as far as they are what a run writes."""
    result: dict[str, Any] = {}
    for split, about in found.items():
        if isinstance(about, dict):
            known = cast(dict[str, Any], about)
            errors = known.get("errors")
            result[split] = {
                "num_examples": count if type(count := known.get("num_examples")) is int else None,
                "fingerprint": str(known.get("fingerprint", "")),
                "num_unreadable": len(cast(list[Any], errors)) if isinstance(errors, list) else 0,
            }
    return result


def _command(words: object, private: Private) -> tuple[str, ...]:
    """The words of the command as one may paste them, but for the folders."""
    if not isinstance(words, list):
        return ()
    return tuple(shell_word(private.value(str(word))) for word in cast(list[Any], words))


def _environment(found: dict[str, Any], private: Private) -> dict[str, str]:
    rows: dict[str, str] = {}
    versions: Any = found.get("versions")
    if isinstance(versions, dict):
        rows |= {str(name): str(v) for name, v in cast(dict[str, Any], versions).items() if v}
    cpu: Any = found.get("cpu")
    if isinstance(cpu, dict):
        told = cast(dict[str, Any], cpu)
        rows["processor"] = (
            f"{told.get('name', 'unknown')}, {told.get('threads', '?')} of {told.get('cores', '?')} cores"
        )
    for name in ("device", "platform", "processes", "commit"):
        if found.get(name) is not None:
            rows[name] = str(found[name])
    origin: Any = found.get("init")
    if isinstance(origin, dict) and "weights" in origin:
        rows["started from"] = private.path(str(cast(dict[str, Any], origin)["weights"]))
    return rows


def _repeats(found: dict[str, Any]) -> tuple[str, ...]:
    known: Any = found.get("deterministic")
    if not isinstance(known, dict):
        return ()
    told = cast(dict[str, Any], known)
    if told.get("weights"):
        return (f"A repetition gives the same weights to the last bit, given {told.get('same', 'the same machine')}.",)
    reasons = told.get("reasons")
    why = "; ".join(map(str, cast(list[Any], reasons))) if isinstance(reasons, list) else "unknown reasons"
    return (f"A repetition may differ in the last bits: {why}.",)
