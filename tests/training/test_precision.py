"""In which numbers a run computes: bf16 on a CPU that has instructions for it, and what that changes."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import vitrail
from vitrail import recipes
from vitrail.config import ComputeConfig, OptimConfig, ViTConfig
from vitrail.model import ViT, attention
from vitrail.model.vit import PatchEmbedding
from vitrail.run import RunDir, load_checkpoint, newest_checkpoint
from vitrail.selftest.same_run import differences
from vitrail.selftest.tiny import tiny_run
from vitrail.training import optim, precision
from vitrail.training.linear_kernels import LinearKernels, from_settings
from vitrail.training.optim import build_optimizers, orthogonalise
from vitrail.training.precision import autocast_dtype, has_cpu_bf16
from vitrail.training.step import TrainStep
from vitrail.training.transfer import with_weights

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SMALL = ViTConfig(image_size=16, patch_size=4, num_labels=5, hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
KINDS = {
    "plain": SMALL,
    "relative positions": dataclasses.replace(SMALL, relative_positions=True),
    "convolutions": dataclasses.replace(
        SMALL, patch_size=1, stem_channels=(8, 32), stem_strides=(2, 1), stem_pools=(1, 2)
    ),
}


@pytest.fixture(params=[True, False], ids=["with bf16", "without"])
def has_bf16(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the processor has instructions for bf16, whatever this one has; without them it is only slower."""
    monkeypatch.setattr(precision, "has_cpu_bf16", lambda: request.param)
    return request.param


def test_what_a_cpu_computes_in(has_bf16: bool) -> None:
    assert autocast_dtype(ComputeConfig(precision="bf16"), CPU) is (torch.bfloat16 if has_bf16 else None)
    assert autocast_dtype(ComputeConfig(precision="fp16"), CPU) is None
    assert autocast_dtype(ComputeConfig(), CPU) is None
    measured = from_settings(ComputeConfig(precision="bf16", cpu_linear="onednn"), CPU)
    assert (measured == LinearKernels("", "computed in bfloat16")) == has_bf16


def test_what_a_gpu_computes_in(has_bf16: bool) -> None:
    for name, dtype in {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": None}.items():
        assert autocast_dtype(ComputeConfig(precision=name), CUDA) is dtype  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("capability", "avx512", "amx", "expected"),
    [("AVX512", True, False, True), ("AVX512_SPR", False, True, True), ("AVX512", False, False, False),
     ("AVX2", True, True, False), ("SVE256", False, False, False)],
)  # fmt: skip
def test_instructions_decide(
    monkeypatch: pytest.MonkeyPatch, capability: str, avx512: bool, amx: bool, expected: bool
) -> None:
    """AVX2 with the others: torch was told to use no more (ATEN_CPU_CAPABILITY)."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert has_cpu_bf16() is expected


def gradients(config: ViTConfig, name: str) -> tuple[float, torch.Tensor]:
    """Loss and gradient of a model whose residual branches are not zero."""
    torch.manual_seed(0)
    model = ViT(config).train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    settings = OptimConfig()
    step = TrainStep(model, build_optimizers(model, settings), settings, ComputeConfig(precision=name), seed=0)  # type: ignore[arg-type]
    loss = step.loss(model, torch.randn(8, 3, 16, 16), torch.arange(8) % 5)
    loss.backward()
    return float(loss.detach()), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_in_bf16_is_that_in_fp32_but_for_rounding(kind: str, has_bf16: bool) -> None:
    (loss, gradient), (exact_loss, exact) = gradients(KINDS[kind], "bf16"), gradients(KINDS[kind], "fp32")
    assert gradient.dtype == torch.float32
    assert loss == pytest.approx(exact_loss, rel=1e-2)
    error = float((gradient - exact).norm() / exact.norm())
    assert (1e-4 < error < 3e-2) if has_bf16 else error == 0.0


@pytest.mark.parametrize("few", [True, False])
def test_attention_avoids_the_slow_gradient(few: bool, has_bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient of the fused kernel is several times slower in bf16 than in fp32, and than written out."""
    seen: list[tuple[torch.dtype, bool]] = []
    fused = F.scaled_dot_product_attention

    def noted(*args: Any, **kwargs: Any) -> torch.Tensor:
        seen.append((args[0].dtype, torch.is_autocast_enabled("cpu")))
        return fused(*args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", noted)
    monkeypatch.setattr(attention, "FEW_TOKENS", 17 if few else 16)  # the model has 16 patches and a class token
    _, found = gradients(SMALL, "bf16")
    assert seen == ([] if few and has_bf16 else [(torch.float32, False)] * SMALL.num_hidden_layers)
    _, exact = gradients(SMALL, "fp32")
    assert float((found - exact).norm() / exact.norm()) < 3e-2


def test_muon_multiplies_in_bf16_where_training_does() -> None:
    model = ViT(SMALL)
    for dtype, expected in ((torch.bfloat16, torch.bfloat16), (None, None), (torch.float16, None)):
        _, muon = build_optimizers(model, OptimConfig(name="muon"), dtype=dtype)
        assert muon.dtype is expected
    given = torch.randn(3, 2, 32, 64, generator=torch.Generator().manual_seed(0))
    found = orthogonalise(given, dtype=torch.bfloat16)
    assert (found.dtype, found.shape) == (given.dtype, given.shape)
    assert not torch.equal(found, orthogonalise(given))
    values = torch.linalg.svdvals(found)
    assert values.min() >= 0.6
    assert values.max() <= 1.2


def test_muon_of_a_run_multiplies_as_the_run_does(
    has_bf16: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: set[torch.dtype | None] = set()

    def noted(matrices: torch.Tensor, *, dtype: torch.dtype | None) -> torch.Tensor:
        seen.add(dtype)
        return orthogonalise(matrices, dtype=dtype)

    monkeypatch.setattr(optim, "orthogonalise", noted)
    vitrail.train(tiny_run(compute={"precision": "bf16"}, schedule={"max_steps": 2}), tmp_path)
    assert seen == {torch.bfloat16 if has_bf16 else None}


def test_a_run_in_bf16_goes_on_exactly_and_says_in_what_it_computed(has_bf16: bool, tmp_path: Path) -> None:
    sections: dict[str, Any] = {"compute": {"precision": "bf16", "num_threads": 1}, "optim": {"name": "muon"}}
    sections["evaluation"] = {"every_epochs": 1}
    config = tiny_run(**sections)
    vitrail.train(config, tmp_path / "whole")
    vitrail.train(tiny_run(**sections, schedule={"max_steps": 12}), tmp_path / "parts")
    vitrail.train(config, tmp_path / "parts", resume=True)
    assert differences(tmp_path / "whole", tmp_path / "parts") == ["config.json"]  # the stop at step 12
    assert RunDir(tmp_path / "parts").read_environment()["resumed"][0]["exact"] is True
    newest, _ = newest_checkpoint(tmp_path / "parts" / "checkpoints")
    assert newest
    assert load_checkpoint(newest).about["dtype"] == ("bfloat16" if has_bf16 else "float32")


def test_going_on_with_another_processor_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sections: dict[str, Any] = {"compute": {"precision": "bf16"}}
    monkeypatch.setattr(precision, "has_cpu_bf16", lambda: True)
    vitrail.train(tiny_run(**sections, schedule={"max_steps": 7}), tmp_path)
    monkeypatch.setattr(precision, "has_cpu_bf16", lambda: False)
    vitrail.train(tiny_run(**sections), tmp_path, resume=True)
    resumed = RunDir(tmp_path).read_environment()["resumed"][0]
    assert resumed["exact"] is False
    assert "dtype: bfloat16 before, float32 now" in str(resumed)


def test_frozen_blocks_and_a_teacher_get_resized_images_in_fp32(
    has_bf16: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The digits have 8x8 pixels and are seen at 16x16; this teacher and this model to tune take 24x24."""
    short = {"schedule": {"max_steps": 2}}
    large = vitrail.train(tiny_run(data={"image_size": 24}, **short), tmp_path / "large").run
    seen: set[tuple[torch.dtype, torch.Size]] = set()

    def noted(embed: PatchEmbedding, args: tuple[torch.Tensor, ...]) -> None:
        seen.add((args[0].dtype, args[0].shape[2:]))

    watching = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, args: noted(module, args) if isinstance(module, PatchEmbedding) else None
    )
    try:
        vitrail.train(
            tiny_run(compute={"precision": "bf16"}, distill={"teacher": str(large)}, **short), tmp_path / "small"
        )
        config = with_weights(recipes.get("finetune-last"), str(large))
        data = dataclasses.replace(config.data, spec="digits", batch_size=128, decode_size=8)
        optim = dataclasses.replace(config.optim, train_last=1)
        schedule = dataclasses.replace(config.schedule, epochs=1, min_steps=0)
        vitrail.train(dataclasses.replace(config, data=data, optim=optim, schedule=schedule), tmp_path / "tuned")
    finally:
        watching.remove()
    assert seen == {(torch.float32, torch.Size((size, size))) for size in (16, 24)}
