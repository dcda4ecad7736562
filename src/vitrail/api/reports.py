"""What a run or a model came to, as one page and one JSON file. Needs torch only where something is to be evaluated."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vitrail import fsio, recipes
from vitrail.config import DataConfig, RunConfig
from vitrail.errors import ConfigError, RunError, VitrailError
from vitrail.reporting import Private, Report, Sources, make, of_model, of_run, predictions_of, stated_accuracies
from vitrail.run import RunDir
from vitrail.weights.card import stored_parameters

if TYPE_CHECKING:
    from vitrail.api.datasets import Split

_DEFAULT = "report.html"


def report(
    model: str | Path,
    *,
    data: str | Path | None = None,
    split: "Split | None" = None,
    data_root: str | Path | None = None,
    out: str | Path | None = None,
    images: bool = True,
    with_host: bool = False,
    png: str | Path | None = None,
    progress: bool = False,
) -> Report:
    """Say what a model can do and what speaks against it: `vitrail report`.

    Of a run the answers are read that its evaluations left; nothing is evaluated, so that no split is looked at twice.
    With `data` the model is measured on these first.

    Args:
        model: a run directory, finished or not; with `data` also a model file or other weights.
        data: measure the model on these images, as `evaluate` does; None: the answers that lie in the run.
        split: as of `evaluate`; without `data` the answers of this split count.
        data_root: where named data sets are.
        out: the HTML file; the JSON file lies beside it. None: RUN/report.html; with `data` MODEL-report.html here.
        images: show small pictures of the data in the page.
        with_host: leave folders outside the working directory, and so the names of users, in the texts.
        png: a folder for the figures as PNG files; None: none are written.
        progress: show bars on standard error.
    Returns:
        Every figure with its interval; `.to_json()` is what the JSON file holds.
    Raises:
        RunError: there is no run, it is damaged, or it has no answers of the split.
        ConfigError: `png` needs matplotlib, which is not installed.
        WeightsError, DataError, InputError: as of `evaluate`, with `data`.
        SaveError: a file cannot be written.
    """
    made, sources = collect(model, data=data, split=split, data_root=data_root, with_host=with_host, progress=progress)
    write(made, sources, Path(out) if out else default_path(model, data), images=images, png=Path(png) if png else None)
    return made


def default_path(model: str | Path, data: str | Path | None) -> Path:
    """Where the page goes that nobody gave a name."""
    if data is None:
        return Path(model) / _DEFAULT
    name = Path(str(model).removeprefix("builtin:")).name.removesuffix(".safetensors") or "model"
    return Path(f"{name}-{_DEFAULT}")


def collect(
    model: str | Path,
    *,
    data: str | Path | None = None,
    split: "Split | None" = None,
    data_root: str | Path | None = None,
    with_host: bool = False,
    progress: bool = False,
) -> tuple[Report, Sources]:
    """The figures, and what a page is drawn from; nothing is written. Arguments and errors: as of `report`."""
    private = Private(with_host)
    if data is not None:
        return _of_model(str(model), data, split, data_root, private, progress)
    run = RunDir(Path(model))
    if not run.exists():
        raise RunError(
            f"{model}: there is no run here.",
            expected="a run directory; or a model with --data SPEC, on which it is measured",
            do="See: vitrail report --help",
        )
    config = run.read_config()
    if config.is_pretraining:
        raise RunError(
            f"{model}: is a run without labels, which has no answers to report on.",
            got=f"pretrain.objective={config.pretrain.objective}",
            expected="a run that learns classes",
            do=f"vitrail finetune {model} --data SPEC makes one; reconstruction.json has what this one came to.",
        )
    answers = predictions_of(run)
    if split is not None:
        if split not in answers:
            raise RunError(
                f"{model}: has no answers of the {split} split.",
                got=", ".join(answers) or "none",
                do=f"vitrail eval {model} --split {split} measures it, where the data have such images.",
            )
        answers = {split: answers[split], **answers}
    subject = of_run(run, _recipe(run, config), private)
    where = config.data if data_root is None else replace(config.data, root=str(data_root))
    return make(subject, answers, where, private, stated_accuracies(run))


def write(report: Report, sources: Sources, path: Path, *, images: bool = True, png: Path | None = None) -> list[Path]:
    """Write the page, the JSON file beside it, and the figures as PNG files; the page last.

    Returns:
        What was written, the page first.
    """
    from vitrail.reporting.page import render

    page = render(report, sources, with_images=images)
    beside = path.with_suffix(".json")
    if beside == path:
        raise ConfigError("The page and the JSON file would have one name.", got=path, expected="a name with .html")
    written = [path, beside, *(_write_png(report, sources, png) if png else ())]
    fsio.write_bytes(beside, (json.dumps(report.to_json(), indent=1, allow_nan=False) + "\n").encode())
    fsio.write_bytes(path, page.encode())
    return written


def _write_png(report: Report, sources: Sources, folder: Path) -> list[Path]:
    from vitrail.reporting.page.html import drawings_of
    from vitrail.reporting.page.png import png

    paths: list[Path] = []
    for name, drawing in drawings_of(report, sources).items():
        fsio.write_bytes(folder / f"{name}.png", png(drawing))
        paths.append(folder / f"{name}.png")
    return paths


def _recipe(run: RunDir, config: RunConfig) -> RunConfig | None:
    """The settings that the run's recipe has; None: it is unknown to this version."""
    try:
        return recipes.get(config.recipe, stored_parameters(run.best_path) if run.best_path.is_file() else 0)
    except VitrailError:
        return None


def _of_model(
    model: str, data: str | Path, split: "Split | None", data_root: str | Path | None, private: Private, progress: bool
) -> tuple[Report, Sources]:
    """Measure a model on data, and report on that."""
    from vitrail.api.inference import data_to_open, evaluate
    from vitrail.predictor import Predictor
    from vitrail.weights import is_own

    predictor = Predictor(model)
    found = evaluate(predictor, data, split=split, data_root=data_root, progress=progress).predictions
    assert found is not None
    config, _ = data_to_open(predictor.card, data, data_root)
    own = is_own(model)
    step = predictor.card.metrics.get("step", -1) if own else -1
    found = replace(found, data=config.spec, step=step if type(step) is int else -1)
    private.hide(Path(config.spec), Path(config.root or "."))
    subject = of_model(model, predictor.card, own, private)
    return make(subject, {found.split: found}, DataConfig(spec=config.spec, root=config.root), private)
