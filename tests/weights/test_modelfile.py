"""The model file: what goes in comes out, and nothing else is taken for one."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from tests.support.headers import card_of, change_card, parts_of, rehashed, write_file
from vitrail.config import Preprocessing, ViTConfig
from vitrail.errors import ConfigError, VitrailError, WeightsError
from vitrail.model import ViT
from vitrail.weights import Card, load, read_card, save

CONFIG = ViTConfig(
    image_size=(8, 12), patch_size=4, num_labels=2, hidden_size=8, num_hidden_layers=1, num_attention_heads=2
)
CARD = Card(
    geometry=CONFIG,
    classes=("cat", "dog"),
    preprocessing=Preprocessing(image_size=(8, 12), decode_size=(8, 12), mean=(0.1, 0.2, 0.3), resize_mode="squash"),
    recipe={"recipe": "x"},
    metrics={"accuracy": 0.5},
    provenance={"source": "test"},
)


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save(tmp_path / "model.safetensors", ViT(CONFIG), CARD)
    return tmp_path / "model.safetensors"


def test_what_goes_in_comes_out(model_file: Path) -> None:
    torch.manual_seed(0)
    original = ViT(CONFIG)
    model, card = load(model_file)
    assert card == CARD
    assert not model.training
    assert model.state_dict().keys() == original.state_dict().keys()
    for name, tensor in original.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


def test_a_stem_with_its_statistics_survives(tmp_path: Path) -> None:
    config = ViTConfig(
        image_size=8, patch_size=2, num_labels=2, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        stem_channels=(4,), stem_strides=(2,),
    )  # fmt: skip
    original = ViT(config)
    original(torch.randn(4, 3, 8, 8))
    size = Preprocessing(image_size=(8, 8), decode_size=(8, 8))
    save(tmp_path / "m.safetensors", original, Card(geometry=config, classes=("a", "b"), preprocessing=size))
    model, _ = load(tmp_path / "m.safetensors")
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(model(images)["logits"], original.eval()(images)["logits"], rtol=0, atol=0)


def test_the_card_is_read_without_the_weights(model_file: Path) -> None:
    assert read_card(model_file) == CARD


def test_a_run_directory_means_its_best_model(model_file: Path) -> None:
    model_file.rename(model_file.with_name("best.safetensors"))
    assert read_card(model_file.parent) == CARD


def test_classes_have_to_match_the_classifier() -> None:
    with pytest.raises(ConfigError, match="classes do not match"):
        Card(geometry=CONFIG, classes=("cat",), preprocessing=CARD.preprocessing)


def test_a_card_of_another_model_is_refused(tmp_path: Path) -> None:
    other = ViTConfig(image_size=8, patch_size=4, num_labels=2, hidden_size=8, num_attention_heads=2)
    with pytest.raises(ConfigError, match="another model"):
        save(tmp_path / "m.safetensors", ViT(other), CARD)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 4}, "newer format"),
        ({"format_version": "1"}, "format_version has a wrong value"),
        ({"classes": ["a"]}, "description is damaged"),
        ({"geometry": {}}, "description is damaged"),
        ({"classes": 5}, "classes has a wrong value"),
        ({"provenance": {"audit": 3}}, "audit has a wrong value"),
        ({"provenance": {"audit_lines": [1]}}, "audit_lines has a wrong value"),
        ({"recipe": {"evaluation": []}}, "evaluation: is not a JSON object"),
        ({"metrics": {"loss": float("nan")}}, "NaN is not a finite number"),
    ],
)
def test_a_description_of_another_kind_is_refused(model_file: Path, change: dict[str, object], message: str) -> None:
    change_card(model_file, card_of(model_file) | change)
    with pytest.raises(WeightsError, match=message):
        load(model_file)


@pytest.mark.parametrize("dtype", ["U32", "I32"])
def test_a_tensor_of_another_kind_of_numbers_is_refused(model_file: Path, dtype: str) -> None:
    header, body = parts_of(model_file)
    header["cls_token"]["dtype"] = dtype
    write_file(model_file, rehashed(header), body)
    with pytest.raises(WeightsError, match=r"cls_token does not fit the geometry"):
        load(model_file)


def test_every_tensor_is_checked_against_the_geometry(model_file: Path) -> None:
    metadata, tensors = parts_of(model_file)[0]["__metadata__"], safetensors.torch.load_file(model_file)
    assert len(tensors) > 10
    for name in tensors:
        for change in ("missing", "reshaped", "renamed"):
            changed = dict(tensors)
            tensor = changed.pop(name)
            if change == "reshaped":
                changed[name] = tensor.unsqueeze(-1).contiguous()
            elif change == "renamed":
                changed[name + "x"] = tensor
            safetensors.torch.save_file(changed, model_file, metadata)
            header, body = parts_of(model_file)
            write_file(model_file, rehashed(header), body)
            with pytest.raises(WeightsError, match=name):
                load(model_file)


@pytest.mark.parametrize("step", [pytest.param(1, marks=[pytest.mark.slow, pytest.mark.unchecked]), 61])
def test_no_bit_of_the_header_flips_unseen(model_file: Path, step: int) -> None:
    whole = model_file.read_bytes()
    unseen: list[int] = []
    for bit in range(0, 8 * (8 + int.from_bytes(whole[:8], "little")), step):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        model_file.write_bytes(damaged)
        try:
            read_card(model_file)
            unseen.append(bit)
        except WeightsError:
            pass
    assert unseen == []


@pytest.mark.parametrize("name", ["header_sha256", "sha256"])
def test_a_new_file_without_its_hashes_is_refused(model_file: Path, name: str) -> None:
    header, body = parts_of(model_file)
    if name == "sha256":
        del header["__metadata__"][name]
        header = rehashed(header)
    else:
        del header["__metadata__"][name]
    write_file(model_file, header, body)
    with pytest.raises(WeightsError, match=f"no {name}|or no {name}"):
        load(model_file)


def test_a_description_with_a_name_twice_is_refused(model_file: Path) -> None:
    text = json.dumps(card_of(model_file))
    change_card(model_file, text[:-1] + ', "classes": ["dog", "cat"]}')
    with pytest.raises(WeightsError, match="there twice"):
        load(model_file)


@pytest.mark.parametrize("version", [1, 2])
def test_files_of_older_versions_load(model_file: Path, version: int) -> None:
    header, body = parts_of(model_file)
    header["__metadata__"]["vitrail"] = json.dumps(card_of(model_file) | {"format_version": version})
    del header["__metadata__"]["header_sha256"], header["__metadata__"]["sha256"]
    write_file(model_file, header, body)
    assert load(model_file)[1] == CARD


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x04.", b"\xff" * 100])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.safetensors").write_bytes(content)
    with pytest.raises(WeightsError):
        load(tmp_path / "m.safetensors")


def test_truncated_files_are_refused(model_file: Path) -> None:
    whole = model_file.read_bytes()
    for length in range(0, len(whole), len(whole) // 40):
        model_file.write_bytes(whole[:length])
        with pytest.raises(WeightsError):
            load(model_file)


def test_safetensors_of_others_are_refused_with_the_reason(tmp_path: Path) -> None:
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "m.safetensors")
    with pytest.raises(WeightsError, match="no weights of a ViT"):
        load(tmp_path / "m.safetensors")


def test_nothing_there(tmp_path: Path) -> None:
    for source in (tmp_path, tmp_path / "no.safetensors"):
        with pytest.raises(VitrailError, match="no weights here"):
            load(source)
