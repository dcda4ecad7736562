"""The other library's word: a model that it opens gives the same logits. The only place that imports a peer."""

from pathlib import Path
from typing import Any

import torch

from vitrail.errors import WeightsError, import_hint, shown
from vitrail.model import ViT
from vitrail.schema import ANYTHING
from vitrail.weights.families import timm
from vitrail.weights.sidecar import read_sidecar
from vitrail.weights.writer import Format, random_images

# Of max(1, largest logit): fp32 kernels differ by up to 7e-6 on a B/16.
TOLERANCE = 2e-5
_PLAIN: dict[str, Any] = {"trust_remote_code": False, "attn_implementation": "eager"}
_ASKS_FOR_CODE = ("auto_map", "attn_implementation", "_attn_implementation")  # of the folder; of a kernel on the hub


def library_of(family: str) -> Format | None:
    """The format whose library opens weights of a family; None: there is none to ask."""
    if family == timm.NAME:
        return "timm"
    return "huggingface" if "Hugging Face" in family else None


@torch.inference_mode()
def max_logit_difference(model: ViT, folder: str | Path, library: Format, *, called: str | None = None) -> float:
    """The largest difference between a model's logits and those of the same weights in their own library.

    Args:
        model: on the CPU, in evaluation mode.
        folder: what the library opens: a folder with config.json.
        library: huggingface or timm.
        called: what messages call the folder; None: by its name.
    Raises:
        WeightsError: the library is missing or cannot open the folder, or the logits differ by more than TOLERANCE.
    """
    refuse_own_code(folder, called)
    images = random_images(model.config)
    ours = model(images)["logits"]
    try:
        theirs = (_transformers_logits if library == "huggingface" else _timm_logits)(folder, images, model)
    except ImportError as error:
        raise WeightsError(
            f"{called or folder}: cannot be verified, "
            f"{'transformers' if library == 'huggingface' else 'timm'} does not import.",
            got=str(error).splitlines()[0],
            do=f"{import_hint('transformers' if library == 'huggingface' else 'timm')} Or leave --verify out.",
        ) from error
    except Exception as error:  # whatever the other library raises is its answer
        raise WeightsError(
            f"{called or folder}: the other library cannot open it.",
            got=f"{type(error).__name__}: {str(error).splitlines()[0]}",
        ) from error
    difference = float((ours - theirs).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(ours.abs().max())):
        raise WeightsError(
            f"{called or folder}: the other library computes other logits.",
            got=f"a difference of {difference:.2g}",
            expected=f"at most {TOLERANCE} of the largest logit",
        )
    return difference


def refuse_own_code(folder: str | Path, called: str | None = None) -> None:
    """Raise WeightsError for a folder that asks the other library to run Python of its own, or for other weights."""
    for file in sorted(Path(folder).glob("*config*.json")):
        values = read_sidecar(file, dict.fromkeys(_ASKS_FOR_CODE, ANYTHING))
        asked = (name for name, value in values.items() if value and (name == "auto_map" or "/" in str(value)))
        if wants := next(asked, None):
            raise WeightsError(
                f"{called or folder}: cannot be verified, its {shown(file.name)} asks for code of its own ({wants}).",
                do=f"Code of a model is never run. Leave --verify out, or take {wants} out of a copy.",
            )
    if (Path(folder) / "adapter_config.json").exists():
        raise WeightsError(
            f"{called or folder}: cannot be verified, the other library would add the adapter in adapter_config.json.",
            do="Leave --verify out, or move adapter_config.json out of a copy.",
        )


def _transformers_logits(folder: str | Path, images: torch.Tensor, model: ViT) -> torch.Tensor:
    import transformers

    if model.config.num_labels:
        loaded: Any = transformers.AutoModelForImageClassification.from_pretrained(folder, **_PLAIN).eval()
        return loaded(images).logits
    loaded = transformers.AutoModel.from_pretrained(folder, **_PLAIN).eval()
    return loaded(images).last_hidden_state[:, 0]


def _timm_logits(folder: str | Path, images: torch.Tensor, model: ViT) -> torch.Tensor:
    import timm as library

    loaded: Any = library.create_model(f"local-dir:{folder}", pretrained=True).eval()
    return loaded(images)
