"""Two models on the same images. Needs torch only where something is to be evaluated."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vitrail import fsio
from vitrail.config import DataConfig, to_json
from vitrail.config.settings import flat_settings
from vitrail.errors import ConfigError, RunError, VitrailError, shell_word, shown
from vitrail.reporting.compared import Answers
from vitrail.reporting.comparison import Comparison, compare_answers
from vitrail.reporting.images import Images, find
from vitrail.run import Predictions, RunDir, read_predictions
from vitrail.weights.card import has_card, read_card

if TYPE_CHECKING:
    from vitrail.api.datasets import Split

_BY_WORTH = ("test", "val", "all", "train")
Several = str | Path | Sequence[str | Path]


def compare(
    first: Several,
    second: Several,
    *,
    data: str | Path | None = None,
    split: "Split | None" = None,
    data_root: str | Path | None = None,
    out: str | Path | None = None,
    images: bool = True,
    progress: bool = False,
) -> Comparison:
    """Say whether one of two models is better on the same images: `vitrail compare`.

    Args:
        first, second: a run directory, or a file of `vitrail eval --predictions`; with `data` also a model file or
            other weights, which are measured first. Several a side, as many on each: runs with other seeds, in pairs.
        data: measure both on these images; None: the answers that lie in the runs.
        split: whose answers; None: test, where both have them, else val.
        data_root: where named data sets are.
        out: an HTML file to write, with a JSON file beside it; None: none.
        images: show small pictures of the images in the page.
        progress: show bars on standard error.
    Returns:
        Every figure with its interval: `.verdict`, `.answer` (first, second or unclear), `.paired`, `.per_class`.
    Raises:
        RunError: a run has no answers of the split.
        DataError: the images are not the same.
        ConfigError: the page would have the name of the JSON file.
        WeightsError, InputError: as of `evaluate`, with `data`.
        SaveError: a file cannot be written.
    """
    sides = [[one] if isinstance(one, str | Path) else list(one) for one in (first, second)]
    if data is not None:
        answers = [[_measured(str(one), data, split, data_root, progress) for one in side] for side in sides]
    else:
        chosen = split or _common_split([path for side in sides for path in side])
        answers = [[_stored(Path(one), chosen) for one in side] for side in sides]
    found = compare_answers(*answers)
    found = replace(found, settings=_settings(Path(sides[0][0]), Path(sides[1][0])))
    if out:
        _write(found, answers[0][0].predictions, _data_of(sides[0][0], data_root), Path(out), images=images)
    return found


def _common_split(paths: Sequence[str | Path]) -> str:
    """The split that counts most of those whose answers lie in all runs; of files their own decides."""
    runs = [RunDir(Path(path)) for path in paths if Path(path).is_dir()]
    there = [split for split in _BY_WORTH if all(run.predictions_path(split).is_file() for run in runs)]
    return there[0] if there else "test"


def _stored(path: Path, split: str) -> Answers:
    """The answers that lie in a run, or in a file."""
    if not path.exists():
        raise RunError(
            f"{shown(path)}: there is no such run or file.", do="For a model without a run: add --data SPEC."
        )
    if not path.is_dir():
        if path.is_file() and has_card(path):
            raise ConfigError(
                f"{shown(path)}: is a model file, which holds no answers.",
                expected="a run directory, or a file of vitrail eval --predictions",
                do="Measure both on some images: vitrail compare A B --data SPEC",
            )
        return Answers(name=str(path), predictions=read_predictions(path))
    run = RunDir(path)
    if not run.exists():
        raise RunError(f"{shown(path)}: is no run.", got="a folder", expected="a run directory, which training makes")
    if not run.predictions_path(split).is_file():
        raise RunError(
            f"{shown(path)}: has no answers of the {split} split.",
            got=", ".join(s for s in _BY_WORTH if run.predictions_path(s).is_file()) or "none",
            do=f"vitrail eval {shell_word(path)} measures it and leaves them there, where the data have such images.",
        )
    return Answers(
        name=str(path), predictions=read_predictions(run.predictions_path(split)), temperature=_temperature(run)
    )


def _temperature(run: RunDir) -> float:
    try:
        calibration = read_card(run.best_path).calibration
    except VitrailError:
        return 1.0
    return calibration.temperature if calibration else 1.0


def _measured(
    model: str, data: str | Path, split: "Split | None", data_root: str | Path | None, progress: bool
) -> Answers:
    from vitrail.api.inference import evaluate
    from vitrail.predictor import Predictor

    predictor = Predictor(model)
    found = evaluate(predictor, data, split=split, data_root=data_root, progress=progress).predictions
    assert found is not None
    return Answers(name=model, predictions=replace(found, data=str(data)), temperature=predictor.temperature)


def _settings(first: Path, second: Path) -> tuple[tuple[str, str, str], ...]:
    """What differs between the settings of two runs; nothing where one is no run."""
    try:
        ours, theirs = (flat_settings(to_json(RunDir(path).read_config())) for path in (first, second))
    except VitrailError:
        return ()
    return tuple(
        (name, _text(ours.get(name)), _text(theirs.get(name)))
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    )


def _text(value: object) -> str:
    return json.dumps(value) if not isinstance(value, str) else value


def _data_of(path: str | Path, data_root: str | Path | None) -> DataConfig:
    """Where the images are, as the first run has them."""
    try:
        config = RunDir(Path(path)).read_config().data
    except VitrailError:
        config = DataConfig(spec="")
    return config if data_root is None else replace(config, root=str(data_root))


def _write(found: Comparison, answers: Predictions, data: DataConfig, path: Path, *, images: bool) -> None:
    from vitrail.reporting.page.comparison import render_comparison

    beside = path.with_suffix(".json")
    if beside == path:
        raise ConfigError("The page and the JSON file would have one name.", got=path, expected="a name with .html")
    where: Images | str = find(replace(data, spec=answers.data or data.spec), answers)
    page = render_comparison(found, where, with_images=images)
    fsio.write_bytes(beside, (json.dumps(found.to_json(), indent=1, allow_nan=False) + "\n").encode())
    fsio.write_bytes(path, page.encode())
