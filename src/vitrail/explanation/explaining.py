"""Images explained: from decoded pixels to maps, in batches of as many as fit."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vitrail import statistics
from vitrail.augment import prepare
from vitrail.config import Preprocessing
from vitrail.config.checks import pair
from vitrail.errors import ConfigError, WeightsError, nearest, shown
from vitrail.explanation.explanations import BEST, Explanation, Explanations, Options, Removal
from vitrail.explanation.faithfulness import Faithfulness, faithfulness, random_srg, with_mean_colour, without_tokens
from vitrail.explanation.methods import METHODS
from vitrail.explanation.trace import TOKENS_AT_ONCE, Target, embed, grid_of, trace
from vitrail.model import ViT
from vitrail.predictor import Predictor, Ranked
from vitrail.weights.audit import Audit
from vitrail.weights.modelfile import build_model
from vitrail.weights.new_geometry import resize_image

_IMAGES_OF_BEST = 16
_RANDOM_ORDERS, _MAPS_OF_RANDOM = 5, 4
_OUTLIER = 3.0


@dataclass(frozen=True, eq=False)
class _Batch:
    """Maps to be made together: the image of each, what is explained of it, and what is known of it already."""

    numbers: list[int]
    images: Float[Tensor, "B C H W"]
    tokens: Float[Tensor, "B N D"]
    target: Target
    probabilities: Float[Tensor, "B L"]
    lengths: Float[Tensor, "B patches"]


def explain_images(
    predictor: Predictor,
    pixels: Sequence[UInt8[np.ndarray, "C h w"]],
    names: Sequence[str],
    options: Options,
    *,
    truth: Sequence[str] | None = None,
    on_images: Callable[[int], object] = lambda _: None,
) -> Explanations:
    """Explain decoded images.

    Args:
        predictor: the model; its weights are explained in torch and fp32, whatever engine it runs in.
        pixels: decoded for its preprocessing, at least one.
        names: what the images are called.
        options: what is explained, and how.
        truth: the right class of each image, explained as well where another one was predicted.
        on_images: told how many more images are done.
    Raises:
        ConfigError: there is no such class, or it is compared with itself.
        WeightsError: the outputs of the model are not finite.
    """
    wanted = [_class_number(predictor, name) for name in options.classes]
    against = None if options.against is None else _class_number(predictor, options.against)
    if against is not None and against in wanted:
        raise ConfigError(
            "A class cannot be compared with itself.", got=options.against, expected="--against another class"
        )
    right = None if truth is None else [_class_number(predictor, name) for name in truth]
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(predictor.device.type, enabled=False):
        model = predictor.model
        if model.patch_embed.proj.weight.dtype != torch.float32:
            model = copy.deepcopy(model).float()
        if model.config.relative_positions:
            model = _of_size(model, predictor.preprocessing.image_size)

        def batches(count: int) -> Iterator[_Batch]:
            return _batches(predictor, model, pixels[:count], wanted, against, right)

        compared = _compared(model, batches(_IMAGES_OF_BEST)) if options.method == BEST else {}
        method = max(compared, key=compared.__getitem__) if compared else options.method
        items: list[Explanation] = []
        spread: dict[Removal, list[float]] = {}
        predicted: dict[int, int] = {}
        for batch in batches(len(pixels)):
            num_before = len(predicted)
            predicted.update(zip(batch.numbers, batch.probabilities.argmax(1).tolist(), strict=True))
            measured = _answers(model, batch) if options.measure else {}
            if (left := _MAPS_OF_RANDOM - len(items)) > 0:
                for kind, answers in measured.items():
                    found = random_srg(
                        answers, batch.lengths.shape[1], _RANDOM_ORDERS, batch.target.first(left), seed=len(items)
                    )
                    spread.setdefault(kind, []).extend(found.flatten().tolist())
            items += _explained(predictor, model, batch, method, measured, names)
            on_images(len(predicted) - num_before)
    return _summed_up(items, method, spread, compared, _disagreements(predictor, pixels, predicted))


def _of_size(model: ViT, image_size: tuple[int, int]) -> ViT:
    """The model, or one for images of another size, whose tokens then lie on its own grid."""
    if pair(model.config.image_size) == image_size:
        return model
    tensors = dict(model.state_dict())
    geometry = resize_image(tensors, model.config, image_size, Audit(mapped={}))
    return build_model(geometry, tensors, next(model.parameters()).device)


def _class_number(predictor: Predictor, name: str) -> int:
    if name in predictor.labels:
        return predictor.labels.index(name)
    hint = nearest(name, predictor.labels)
    raise ConfigError(
        "The model has no such class.",
        got=shown(name),
        expected=f"one of {len(predictor.labels)}, as {', '.join(map(shown, predictor.labels[:5]))}",
        do=f"Perhaps you meant {shown(hint)}." if hint else "vitrail inspect MODEL --json lists them.",
    )


def _batches(
    predictor: Predictor,
    model: ViT,
    pixels: Sequence[UInt8[np.ndarray, "C h w"]],
    wanted: Sequence[int],
    against: int | None,
    right: Sequence[int] | None,
) -> Iterator[_Batch]:
    """Batches of maps, as many at a time as fit."""
    rows, columns = grid_of(model, predictor.preprocessing.image_size)
    first, is_yes_or_no = model.config.num_prefix_tokens, predictor.card.is_yes_or_no
    at_once = max(1, TOKENS_AT_ONCE // (first + rows * columns))
    for start in range(0, len(pixels), at_once):
        part = np.stack(pixels[start : start + at_once])
        images = prepare(torch.from_numpy(part).to(predictor.device), predictor.preprocessing)
        tokens = embed(model, images)
        with torch.no_grad():
            run = trace(model, tokens)
        logits = run.logits / predictor.temperature
        probabilities = logits.sigmoid() if is_yes_or_no else logits.softmax(1)
        if not bool(probabilities.isfinite().all()):
            raise WeightsError("The outputs of the model are not finite.", do="Train it again.")
        lengths = run.hidden[-1][:, first:].norm(dim=-1)
        order = probabilities.argsort(1, descending=True).tolist()
        pairs = [
            (i, label)
            for i in range(len(part))
            for label in dict.fromkeys(wanted or [order[i][0], *([right[start + i]] if right else [])])
        ]
        for begin in range(0, len(pairs), at_once):
            chosen = pairs[begin : begin + at_once]
            others = [next((k for k in order[i] if k != c), c) if against == c else against for i, c in chosen]
            rivals = None if against is None else torch.tensor(others, device=predictor.device)
            target = Target(torch.tensor([c for _, c in chosen], device=predictor.device), rivals, is_yes_or_no)
            index = torch.tensor([i for i, _ in chosen], device=predictor.device)
            yield _Batch(
                [start + i for i, _ in chosen], images[index], tokens[index], target, probabilities[index],
                lengths[index],
            )  # fmt: skip


def _compared(model: ViT, batches: Iterator[_Batch]) -> dict[str, float]:
    """Mean SRG of every method that needs few passes."""
    found: dict[str, list[float]] = {}
    for batch in batches:
        answers = next(reversed(_answers(model, batch).values()))  # behind a convolutional stem, the mean colour
        for name, method in METHODS.items():
            if method.is_cheap:
                maps = method.row(model, batch.tokens, batch.target)[:, -batch.lengths.shape[1] :].detach()
                found.setdefault(name, []).extend(one.srg for one in faithfulness(answers, maps, batch.target))
    return {name: float(np.mean(values)) for name, values in found.items()}


def _answers(model: ViT, batch: _Batch) -> dict[Removal, Callable[[Tensor, Tensor], Tensor]]:
    """The ways in which patches are taken away."""
    found: dict[Removal, Callable[[Tensor, Tensor], Tensor]] = {"tokens": without_tokens(model, batch.tokens)}
    if model.config.stem_channels:
        height, width = batch.images.shape[2:]
        found["mean colour"] = with_mean_colour(model, batch.images, grid_of(model, (height, width)))
    return found


def _explained(
    predictor: Predictor,
    model: ViT,
    batch: _Batch,
    method: str,
    measured: dict[Removal, Callable[[Tensor, Tensor], Tensor]],
    names: Sequence[str],
) -> Iterator[Explanation]:
    """The maps of a batch."""
    row = METHODS[method].row(model, batch.tokens, batch.target).detach()
    height, width = batch.images.shape[2:]
    grid = grid_of(model, (height, width))
    maps = row[:, row.shape[1] - grid[0] * grid[1] :]
    outside = 1 - maps.abs().sum(1) / row.abs().sum(1).clamp(min=torch.finfo(row.dtype).tiny)
    faithful: dict[Removal, list[Faithfulness]] = {
        kind: faithfulness(answers, maps, batch.target) for kind, answers in measured.items()
    }
    is_outlier = batch.lengths > _OUTLIER * batch.lengths.median(1, keepdim=True).values
    best = batch.probabilities.topk(min(3, len(predictor.labels)))
    for i, number in enumerate(batch.numbers):
        chosen = int(batch.target.chosen[i])
        rival = None if batch.target.against is None else predictor.labels[int(batch.target.against[i])]
        yield Explanation(
            path=names[number],
            label=predictor.labels[chosen],
            probability=float(batch.probabilities[i, chosen]),
            against=rival,
            method=method,
            map=maps[i].unflatten(0, grid).float().cpu().numpy(),
            top=tuple(
                Ranked(predictor.labels[label], value)
                for label, value in zip(best.indices[i].tolist(), best.values[i].tolist(), strict=True)
            ),
            faithfulness={kind: values[i] for kind, values in faithful.items()},
            outside=float(outside[i]),
            outliers=tuple((k // grid[1], k % grid[1]) for k in is_outlier[i].nonzero()[:, 0].tolist()),
            image=_seen(batch.images[i], predictor.preprocessing),
        )


def _seen(image: Float[Tensor, "C H W"], preprocessing: Preprocessing) -> UInt8[np.ndarray, "H W 3"]:
    """The model's input as a picture."""
    mean, std = (torch.tensor(v, device=image.device)[:, None, None] for v in (preprocessing.mean, preprocessing.std))
    levels = ((image * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(levels.expand(3, -1, -1).permute(1, 2, 0).cpu().numpy())


def _disagreements(
    predictor: Predictor, pixels: Sequence[UInt8[np.ndarray, "C h w"]], predicted: dict[int, int]
) -> int | None:
    """How many of the images the predictor's own engine answers differently; None where it was not asked for one."""
    options = predictor.options
    if options.engine in ("auto", "torch") and options.precision == "fp32" and not options.merge:
        return None
    return sum(
        int(predictor.outputs(pixels[number][None]).logits.argmax()) != chosen for number, chosen in predicted.items()
    )


def _summed_up(
    items: list[Explanation],
    method: str,
    spread: dict[Removal, list[float]],
    compared: dict[str, float],
    disagreements: int | None,
) -> Explanations:
    """What holds for all of the maps."""
    found = Explanations(items=tuple(items), method=method, compared=compared, disagreements=disagreements)
    kinds = list(items[0].faithfulness) if items else []
    values = {kind: np.array([one.faithfulness[kind].srg for one in items]) for kind in kinds}
    return replace(
        found,
        srg={kind: float(srg.mean()) for kind, srg in values.items()},
        interval={
            kind: statistics.bootstrap(lambda chosen, srg=srg: float(srg[chosen].mean()), len(srg))
            for kind, srg in values.items()
            if len(srg) > 1
        },
        random_spread={kind: float(np.std(spread[kind])) for kind in kinds},
    )
