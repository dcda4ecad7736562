"""Which engine runs a model: by rule, and by a short measurement where there is much to do.

The default is exact: engines that compute in fp32 and whose logits were compared with torch's. Integer arithmetic and
token merging happen only where they were asked for.
"""

import contextlib
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, TypeGuard, get_args

import torch

from vitrail.errors import ConfigError, VitrailError
from vitrail.model import ViT
from vitrail.run.environment import versions_of
from vitrail.runtime.engines import Arithmetic, Runtime, check_installed, missing, start, tf32, torch_runtime
from vitrail.runtime.integers import exact_settings
from vitrail.runtime.measure import WORTH_MEASURING_S, machine, rates_of, seconds_each
from vitrail.runtime.merging import check_mergeable
from vitrail.runtime.translated import Translated, probe_images

EngineChoice = Literal["auto", "torch", "onnx", "openvino"]
Precision = Literal["fp32", "tf32", "bf16", "fp16", "int8"]

MAX_DIFFERENCE = 1e-4
"""Largest difference of logits between an engine and torch, relative to the largest logit."""
_ALTERNATIVES = ("onnx", "openvino")


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """What was asked for."""

    engine: EngineChoice = "auto"
    precision: Precision = "fp32"
    merge: int = 0
    """Tokens fewer after each layer (vitrail.runtime.merging), in any engine."""

    def __post_init__(self) -> None:
        for name, value, known in (
            ("--engine", self.engine, ("auto", "torch", "onnx", "openvino")),
            ("--precision", self.precision, get_args(Precision)),
        ):
            if value not in known:
                raise ConfigError(f"{name} has a wrong value.", got=value, expected=", ".join(known))
        if self.merge < 0:
            raise ConfigError("--merge must not be negative.", got=self.merge, expected="tokens, an integer >= 0")
        if self.precision == "int8" and self.engine in ("torch", "openvino"):
            raise ConfigError(
                "--precision int8 runs in ONNX Runtime.", got=f"--engine {self.engine}", do="Use --engine onnx."
            )
        if self.precision in ("tf32", "bf16", "fp16") and self.engine in _ALTERNATIVES:
            raise ConfigError(
                f"--precision {self.precision} runs in torch.", got=f"--engine {self.engine}", do="Use --engine torch."
            )


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What runs the model, and why."""

    runtime: Runtime = field(repr=False)
    engine: Literal["torch", "onnx", "openvino"]
    precision: Precision = "fp32"
    merge: int = 0
    batch_size: int = 0
    """Images at a time; 0: nobody measured."""
    reason: str

    @property
    def name(self) -> str:
        """What runs the model."""
        merged = f", {self.merge} tokens merged per layer" if self.merge else ""
        return f"{self.engine} {self.precision}{merged}"

    @property
    def line(self) -> str:
        """One line for people: what runs the model, and why."""
        return f"engine: {self.name}, {self.batch_size} images at a time ({self.reason})"

    def to_json(self) -> dict[str, Any]:
        """The key `engine` of the answers of predict and eval."""
        return {name: value for name, value in asdict(replace(self, runtime=_no_runtime)).items() if name != "runtime"}


def choose(
    model: ViT,
    image_size: tuple[int, int],
    options: EngineOptions,
    *,
    num_images: int,
    alone: bool = True,
    on_wait: Callable[[str], object] = lambda _: None,
) -> Chosen:
    """Find what runs the model.

    Args:
        model: in evaluation mode, on its device.
        image_size: height and width of the input.
        options: what was asked for.
        num_images: how many there are to be done.
        alone: False where several processes share the work, which would disturb each other's measurements.
        on_wait: told what takes a while.
    Raises:
        ConfigError: what was asked for is not installed, or not for this device.
    """
    if options.merge:
        check_mergeable(model)
    device = next(model.parameters()).device
    plain = Chosen(
        runtime=torch_runtime(model, image_size, options.merge, _arithmetic(options.precision, device)),
        engine="torch",
        precision="fp32" if options.precision == "int8" else options.precision,
        merge=options.merge,
        reason="asked for",
    )
    if options.precision == "int8" or options.engine in _ALTERNATIVES:
        if device.type != "cpu":
            raise ConfigError(
                "ONNX Runtime and OpenVINO run on the CPU here.", got=f"--device {device.type}", do="Use --device cpu."
            )
        engine = "openvino" if options.engine == "openvino" else "onnx"
        check_installed(engine, "--precision int8" if options.precision == "int8" else f"--engine {engine}")
        translated = Translated(model, image_size, int8=options.precision == "int8", merge=options.merge)
        return _checked(translated, engine, plain, on_wait)
    if options.engine == "torch" or plain.precision != "fp32":
        return plain
    if device.type != "cpu":
        return replace(plain, reason=f"the device is {device.type}")
    if not alone:
        return replace(plain, reason="several processes share the work")
    able = [engine for engine in _ALTERNATIVES if not missing(engine)]
    if not able:
        return replace(plain, reason="no other engine is installed")
    seconds = seconds_each(plain.runtime, model, image_size)
    if seconds * num_images < WORTH_MEASURING_S:
        return replace(plain, reason="too little work to start another engine for")
    return _fastest(Translated(model, image_size, merge=options.merge), able, plain, seconds, on_wait)


def _arithmetic(precision: Precision, device: torch.device) -> Arithmetic:
    """What torch computes in. Raises ConfigError where the device has no such numbers."""
    if precision == "tf32" and device.type != "cuda":
        raise ConfigError("--precision tf32 is for GPUs of NVIDIA.", got=f"--device {device.type}", do="Use fp32.")
    if precision == "tf32":
        return tf32
    if precision in ("bf16", "fp16"):
        dtype = torch.bfloat16 if precision == "bf16" else torch.float16
        return lambda: torch.autocast(device.type, dtype)
    return contextlib.nullcontext


def _checked(translated: Translated, engine: Any, plain: Chosen, on_wait: Callable[[str], object]) -> Chosen:
    """An engine that was asked for; torch where its logits differ, or where the model cannot be translated."""
    kind = "int8" if translated.int8 else "fp32"
    try:
        if not translated.path.exists():
            on_wait(f"translating the model for {engine} (once)")
        runtime = start(engine, translated.file())
        difference = _difference(translated, engine, runtime, plain.runtime)
    except VitrailError as error:
        return replace(plain, reason=f"{engine} cannot run this model: {error.what}")
    if not math.isfinite(difference):
        return replace(plain, reason=f"logits of {engine} are not finite")
    if kind == "fp32" and difference > MAX_DIFFERENCE:
        reason = f"logits of {engine} differ by {difference:.1e}, more than {MAX_DIFFERENCE:.0e}"
        return replace(plain, reason=reason)
    reason = f"asked for; logits differ by {difference:.1e} from fp32 torch's (relative, random images)"
    if translated.int8 and exact_settings():
        reason += "; the faster products of integers are wrong on this processor (no VNNI), exact ones are used"
    return Chosen(runtime=runtime, engine=engine, precision=kind, merge=plain.merge, reason=reason)


def _difference(translated: Translated, engine: str, runtime: Runtime, plain: Runtime) -> float:
    """Largest difference of logits on fixed images, relative to the largest; measured once a version and machine."""
    version = versions_of({"onnx": ["onnxruntime"], "openvino": ["openvino"]}[engine])
    name = f"difference of {engine} on {machine(translated.model)}"
    known = translated.notes.get(name)
    if isinstance(known, dict) and known.get("version") == version and isinstance(known.get("largest"), float):
        return known["largest"]
    images = probe_images(translated.model, translated.image_size, 2)
    theirs, ours = runtime(images), plain(images)
    difference = float((theirs - ours).abs().max() / ours.abs().max().clamp(min=1e-6))
    if math.isfinite(difference):
        translated.note(name, {"version": version, "largest": difference})
    return difference


def _fastest(
    translated: Translated, able: list[str], plain: Chosen, seconds: float, on_wait: Callable[[str], object]
) -> Chosen:
    """The fastest exact engine on this machine, as measured now or remembered."""
    note = f"engines on {machine(translated.model)}, {versions_of(('torch', *able))}"
    rates = translated.notes.get(note)
    chosen: dict[str, Chosen] = {"torch": plain}
    if _are_rates(rates, able):
        best = max(rates, key=rates.__getitem__)
        when = "as measured before"
        if best != "torch":
            chosen[best] = _checked(translated, best, plain, on_wait)
    else:
        on_wait(f"measuring which engine is fastest here: torch, {', '.join(able)} (once)")
        when = "measured now"
        for engine in able:
            candidate = _checked(translated, engine, plain, on_wait)
            if candidate.engine == engine:
                chosen[engine] = candidate
        rates = rates_of({name: one.runtime for name, one in chosen.items()}, translated, seconds)
        translated.note(note, rates)
        best = max(rates, key=rates.__getitem__)
    if best == "torch" or chosen[best].engine != best:
        return replace(plain, reason=f"the fastest of {', '.join(rates)}, {when}")
    return replace(chosen[best], reason=f"{rates[best] / rates['torch']:.2f} times as fast as torch, {when}")


def _are_rates(known: Any, able: list[str]) -> TypeGuard[dict[str, float]]:
    """Whether a note says how fast torch and other engines are."""
    return isinstance(known, dict) and "torch" in known and set(known) <= {"torch", *able}  # type: ignore[arg-type]


def _no_runtime(images: torch.Tensor) -> torch.Tensor:
    return images
