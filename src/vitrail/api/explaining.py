"""What a model looked at: `explain`, and the files it leaves."""

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from vitrail import explanation, fsio
from vitrail.api.inference import Model, OnNote, _each, _predictor
from vitrail.errors import ImageError, InputError, RunError
from vitrail.explanation import Explanations, Options
from vitrail.explanation.explanations import map_name
from vitrail.explanation.methods import DEFAULT
from vitrail.predictor import ImageLike, Predictor, decode, name_of
from vitrail.progress import Bar


def explain(
    model: Model,
    images: ImageLike | Sequence[ImageLike],
    *,
    method: str = DEFAULT,
    classes: Sequence[str] = (),
    against: str | None = None,
    truth: Sequence[str] | None = None,
    faithfulness: bool = True,
    out: str | Path | None = None,
    smooth: bool = False,
    image_size: int | tuple[int, int] | None = None,
    device: str = "auto",
    progress: bool = False,
    on_note: OnNote = lambda _: None,
    on_unreadable: Callable[[ImageError], object] | None = None,
) -> Explanations:
    """Show from where in each image a model read a class, and measure whether that is so: `vitrail explain`.

    A map is evidence about the model, not about the world: docs/explain.md.

    Args:
        model, images: as of `predict`; explained is always the torch model in fp32.
        method: removal-gradient, gradient-rollout, legrad, grad-cam, input-gradient, rollout, attention, occlusion; or
            best, which measures those that need few passes on the first 16 images and takes the most faithful one.
        classes: those that are explained; none: the predicted one.
        against: a class whose logit is subtracted: what speaks for one rather than the other.
        truth: the right class of each image, explained too where the model chose another one; only without `classes`.
        faithfulness: False: do not measure it, which takes most of the time.
        out: a folder that is made, with sheet.png, the maps (.npy, fp32, [rows, columns]) and, last, explain.json.
        smooth: in the sheet, mix neighbouring patches and interpolate, for the eye; maps and figures stay.
        image_size, device: as of `predict`.
        progress, on_note: show a bar on standard error; told what takes a while.
        on_unreadable: told of an image that cannot be read, which is left out; None: the error is raised.
    Returns:
        `.items`, a map for each image and class, in their order, with its probability and faithfulness; `.srg`, the
        mean faithfulness: 0 for a random order of the patches.
    Raises:
        ConfigError: no such method, class or device.
        RunError, SaveError: there is something at `out` already; it could not be written.
        ImageError, InputError, DataError, WeightsError: as of `predict`.
    """
    options = Options(method=method, classes=tuple(classes), against=against, measure=faithfulness)
    if out is not None and Path(out).exists():
        raise RunError(f"{out}: exists already.", do="Choose another folder with --out, or move that one away.")
    predictor = _predictor(model, image_size, device, None, on_note)
    listed = list(_each(images))
    if truth is not None and (classes or len(truth) != len(listed)):
        raise InputError(
            "`truth` takes one class for each image, and goes without `classes`.",
            got=f"{len(truth)} for {len(listed)} images" + (", and classes" if classes else ""),
        )
    numbers, pixels = _readable(listed, predictor, on_unreadable)
    right = None if truth is None else [truth[number] for number in numbers]
    names = [name_of(listed[number]) for number in numbers]
    with Bar(len(pixels), unit="images", keep=False, enabled=progress) as bar:
        found = explanation.explain_images(predictor, pixels, names, options, truth=right, on_images=bar.advance)
    if out is not None:
        _write(found, Path(out), predictor.name, predictor.labels, smooth=smooth)
    return found


def _readable(
    images: Sequence[ImageLike], predictor: Predictor, on_unreadable: Callable[[ImageError], object] | None
) -> tuple[list[int], list[UInt8[np.ndarray, "C h w"]]]:
    """The images that can be read: their numbers and pixels."""
    found: dict[int, np.ndarray] = {}
    for number, image in enumerate(images):
        try:
            found[number] = decode(image, predictor.preprocessing)
        except ImageError as error:
            if on_unreadable is None:
                raise
            on_unreadable(error)
    if not found:
        raise InputError("None of these is an image.", got=f"{len(images)} files", expected="at least one image")
    return list(found), list(found.values())


def _write(found: Explanations, folder: Path, title: str, labels: Sequence[str], *, smooth: bool) -> None:
    """The folder, which appears complete or not at all."""
    files: dict[str, Sequence[bytes]] = {}
    for number, page in enumerate(explanation.draw_sheets(found, title, labels=labels, smooth=smooth), start=1):
        stream = io.BytesIO()
        page.save(stream, "PNG", optimize=True)
        files["sheet.png" if number == 1 else f"sheet-{number}.png"] = [stream.getvalue()]
    for number, one in enumerate(found.items):
        stream = io.BytesIO()
        np.lib.format.write_array(stream, one.map, allow_pickle=False)
        files[map_name(number)] = [stream.getvalue()]
    values = {"model": title, **found.to_json(), "classes": list(labels)}

    def content(digests: dict[str, str]) -> bytes:
        return (json.dumps({**values, "sha256": digests}, indent=2, allow_nan=False) + "\n").encode()

    fsio.write_new_dir(folder, files, ("explain.json", content))
