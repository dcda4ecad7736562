"""Compiled and exported models equal the eager one, at sizes and batches they were not traced with."""

import shutil

import pytest
import torch

from tests.support.random_vit import random_vit

COMPILED_ATOL = 1e-5

pytestmark = pytest.mark.unchecked  # the active type checker breaks fullgraph


@pytest.fixture(autouse=True)
def forget_compiled_code() -> None:
    torch.compiler.reset()


@torch.no_grad()
@pytest.mark.parametrize("position", ["learned", "sincos"])
def test_the_whole_model_is_one_graph_for_any_size_and_batch(position: str) -> None:
    # aot_eager traces and decomposes as the real compiler does, and leaves out its minute of C++.
    model = random_vit(num_hidden_layers=1, position=position, num_registers=1, use_mask_token=True)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=True)
    for batch, height, width in ((2, 16, 24), (5, 40, 12)):
        images = torch.randn(batch, 3, height, width)
        mask = torch.rand(batch, height * width // 16) < 0.5
        arguments = {"bool_masked_pos": mask, "interpolate_pos_encoding": True}
        expected = model(images, **arguments)["logits"]
        torch.testing.assert_close(compiled(images, **arguments)["logits"], expected, rtol=0, atol=COMPILED_ATOL)


def test_training_with_labels_is_one_graph_and_gives_the_eager_gradients() -> None:
    model = random_vit(num_hidden_layers=1, layer_scale=0.1, qk_norm=True).train()
    images, labels = torch.randn(3, 3, 16, 16), torch.tensor([0, 4, 2])
    parameters = list(model.parameters())
    expected = torch.autograd.grad(model(images, labels=labels)["loss"], parameters)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    got = torch.autograd.grad(compiled(images, labels=labels)["loss"], parameters)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=COMPILED_ATOL)


@torch.no_grad()
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # from inside torch
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler")
def test_the_default_compiler_gives_the_eager_logits() -> None:
    model = random_vit(num_hidden_layers=1)
    images = torch.randn(2, 3, 16, 16)
    got = torch.compile(model, fullgraph=True)(images)["logits"]
    torch.testing.assert_close(got, model(images)["logits"], rtol=0, atol=COMPILED_ATOL)


@torch.no_grad()
def test_exported_with_a_dynamic_batch() -> None:
    model = random_vit()
    batch = {"pixel_values": {0: torch.export.Dim("batch")}}
    program = torch.export.export(model, (torch.randn(2, 3, 16, 16),), dynamic_shapes=batch).module()
    for size in (1, 7):
        images = torch.randn(size, 3, 16, 16)
        torch.testing.assert_close(program(images)["logits"], model(images)["logits"], rtol=0, atol=COMPILED_ATOL)


@torch.no_grad()
@pytest.mark.parametrize("position", ["learned", "sincos"])
def test_exported_with_dynamic_batch_height_and_width(position: str) -> None:
    model = random_vit(num_hidden_layers=1, position=position, num_registers=2)
    rows, columns = torch.export.Dim("rows", max=64), torch.export.Dim("columns", max=64)
    shapes = {0: torch.export.Dim("batch"), 2: 4 * rows, 3: 4 * columns}
    program = torch.export.export(
        model,
        (torch.randn(3, 3, 24, 32),),
        {"interpolate_pos_encoding": True},
        dynamic_shapes={"pixel_values": shapes, "interpolate_pos_encoding": None},
    ).module()
    for batch, height, width in ((2, 16, 16), (5, 40, 12)):  # the model's own grid, and another
        images = torch.randn(batch, 3, height, width)
        expected = model(images, interpolate_pos_encoding=True)["logits"]
        got = program(images, interpolate_pos_encoding=True)["logits"]
        torch.testing.assert_close(got, expected, rtol=0, atol=COMPILED_ATOL)
