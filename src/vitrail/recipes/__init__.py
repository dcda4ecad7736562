"""Named runs. A recipe is a plain function that returns a `RunConfig`; its docstring states, a line each, the command,
the hardware, the time, the expected score with its spread, and the source. No torch.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from vitrail.config import RunConfig
from vitrail.errors import ConfigError, nearest
from vitrail.recipes.cifar10 import cifar10, cifar10_cpu, cifar10_cpu_conv, cifar10_cpu_hour
from vitrail.recipes.cifar100 import cifar100_cpu, cifar100_cpu_conv
from vitrail.recipes.digits import digits
from vitrail.recipes.finetune import (
    SMALL,
    finetune,
    finetune_cpu,
    finetune_gradual,
    finetune_last,
    finetune_sgd,
    knn,
    linear_probe,
    lora,
    reference_finetune,
)
from vitrail.recipes.pretrain import pretrain_cpu
from vitrail.recipes.reference import reference_scratch

_RECIPES: dict[str, Callable[[], RunConfig]] = {
    "digits": digits,
    "cifar10-cpu": cifar10_cpu,
    "cifar10-cpu-hour": cifar10_cpu_hour,
    "cifar10-cpu-conv": cifar10_cpu_conv,
    "cifar10": cifar10,
    "cifar100-cpu": cifar100_cpu,
    "cifar100-cpu-conv": cifar100_cpu_conv,
    "reference-scratch": reference_scratch,
    "pretrain-cpu": pretrain_cpu,
    "finetune": finetune,
    "finetune-cpu": finetune_cpu,
    "reference-finetune": reference_finetune,
    "finetune-sgd": finetune_sgd,
    "finetune-gradual": finetune_gradual,
    "finetune-last": finetune_last,
    "lora": lora,
    "linear-probe": linear_probe,
    "knn": knn,
}
_FROM_WEIGHTS = (
    "finetune",
    "finetune-cpu",
    "reference-finetune",
    "finetune-sgd",
    "finetune-gradual",
    "finetune-last",
    "lora",
    "linear-probe",
    "knn",
)
_WITHOUT_LABELS = ("pretrain-cpu",)
_STATED: tuple[str, ...] = ("command", "hardware", "time", "expected", "source")


@dataclass(frozen=True)
class Description:
    """What a recipe's docstring says."""

    name: str
    what: str
    command: str
    hardware: str
    time: str
    expected: str
    source: str


def names() -> list[str]:
    """Every recipe's name."""
    return list(_RECIPES)


def from_scratch() -> list[str]:
    """The names of those that learn classes and need no weights to start from."""
    return [name for name in _RECIPES if name not in (*_FROM_WEIGHTS, *_WITHOUT_LABELS)]


def without_labels() -> list[str]:
    """The names of those that learn from images alone."""
    return list(_WITHOUT_LABELS)


def starts_from_weights(name: str) -> bool:
    """Whether a recipe is of no use to a model of random weights."""
    return name in _FROM_WEIGHTS


def get(name: str, num_parameters: int = 0) -> RunConfig:
    """The configuration of a recipe.

    Args:
        num_parameters: of the weights that it starts from, whose size decides some settings of `finetune`; 0: large.
    Raises:
        ConfigError: there is no such recipe; names the nearest one.
    """
    if name not in _RECIPES:
        near = nearest(name, _RECIPES)
        raise ConfigError(
            f"There is no recipe {name!r}.",
            expected=f"from scratch {', '.join(from_scratch())}; from pretrained weights {', '.join(_FROM_WEIGHTS)}; "
            f"without labels {', '.join(_WITHOUT_LABELS)}",
            do=f"Did you mean {near}?" if near else "See: vitrail recipes",
        )
    is_small = name == "finetune" and 0 < num_parameters < SMALL
    return replace(finetune_cpu() if is_small else _RECIPES[name](), recipe=name)


def get_from_scratch(name: str) -> RunConfig:
    """The configuration of a recipe that needs no pretrained weights.

    Raises:
        ConfigError: there is no such recipe, or it is one of fine-tuning or of pretraining.
    """
    recipe = get(name)
    if recipe.is_pretraining:
        raise ConfigError(f"{name} learns from images without labels.", do=f"vitrail pretrain {name} --data SPEC")
    if starts_from_weights(name):
        raise ConfigError(
            f"{name} starts from pretrained weights, and none are given.",
            do=f"vitrail finetune WEIGHTS --data SPEC --recipe {name}",
        )
    return recipe


def describe(name: str) -> Description:
    """What a recipe's docstring states. Raises ConfigError when a line is missing."""
    get(name)
    text = _RECIPES[name].__doc__ or ""
    what, _, rest = text.strip().partition("\n\n")
    stated: dict[str, str] = dict.fromkeys(_STATED, "")
    key = ""
    for line in rest.splitlines():
        word, colon, value = line.strip().partition(":")
        if colon and word.lower() in stated:
            key = word.lower()
            stated[key] = value.strip()
        elif key and line.strip():
            stated[key] += " " + line.strip()
    for word, value in stated.items():
        if not value:
            raise ConfigError(f"The docstring of recipe {name} states no {word}.")
    return Description(name=name, what=" ".join(what.split()), **stated)
