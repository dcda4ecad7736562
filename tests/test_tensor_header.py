"""Headers of safetensors files: what an honest library writes is read as it reads it, everything else is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch

from vitrail.errors import WeightsError
from vitrail.tensor_header import is_safetensors, read_header


def written(path: Path, header: object, body: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    return path


def entry(start: int, stop: int, shape: tuple[int, ...], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


def test_every_type_that_the_library_writes(tmp_path: Path) -> None:
    types = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16]
    types += [
        torch.int8,
        torch.uint8,
        torch.bool,
        torch.float8_e4m3fn,
        torch.float8_e5m2,
        torch.complex64,
        torch.uint16,
    ]
    state = {str(dtype): torch.zeros(3, 5).to(dtype) for dtype in types}
    state |= {"scalar": torch.tensor(1.0), "empty": torch.zeros(0, 4), "empty2": torch.zeros(2, 0)}
    safetensors.torch.save_file(state, tmp_path / "a", metadata={"format": "pt", "Zoë": "猫"})
    header = read_header(tmp_path / "a")
    assert header.shapes == {name: tuple(tensor.shape) for name, tensor in state.items()}
    assert header.metadata == {"format": "pt", "Zoë": "猫"}
    with safetensors.safe_open(tmp_path / "a", "pt") as opened:
        assert set(opened.keys()) == header.shapes.keys()
        assert all(opened.get_slice(name).get_dtype() == header.dtypes[name] for name in header.shapes)


@pytest.mark.parametrize(
    ("header", "body", "message"),
    [
        ({"a": entry(0, 4, (1,))}, b"", "says 4"),
        ({"a": entry(0, 4, (1,))}, bytes(8), "8 bytes of tensors where the header says 4"),
        ({"a": entry(0, 4, (1,)), "b": entry(2, 6, (1,))}, bytes(6), "overlap"),
        ({"a": entry(0, 4, (1,)), "b": entry(8, 12, (1,))}, bytes(12), "gap"),
        ({"a": entry(0, 4, (2,))}, bytes(4), "no such type, shape and place"),
        ({"a": entry(0, 4, (1,), "F31")}, bytes(4), "no such type"),
        ({"a": entry(4, 0, (-1,))}, bytes(4), "no such type"),
        ({"a": {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}}, bytes(4), "no such type"),
        ({"a": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}, bytes(4), "no such type"),
        ({"a": 3}, b"", "no such type"),
        ({"__metadata__": {"a": 1}}, b"", "not texts by name"),
        ({"__metadata__": []}, b"", "not texts by name"),
        ([], b"", "not a JSON object"),
        (b'{"a":' * 50_000, b"", "nested too deeply"),
        (b'{"a": {}, "a": {}}', b"", "there twice"),
        (b"{broken", b"", "damaged"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, header: object, body: bytes, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        read_header(written(tmp_path / "a", header, body))


def test_more_tensors_than_any_model_has(tmp_path: Path) -> None:
    many = {str(i): entry(0, 0, (0,)) for i in range(10_001)}
    with pytest.raises(WeightsError, match="10001 tensors, more than 10000"):
        read_header(written(tmp_path / "a", many))


def test_a_length_beyond_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes((1 << 62).to_bytes(8, "little") + b"{}")
    with pytest.raises(WeightsError, match="a header of 4611686018427387904 bytes"):
        read_header(tmp_path / "a")
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(WeightsError, match="header is damaged"):
        read_header(tmp_path / "a")


def test_a_header_whose_length_begins_as_a_pickle_does() -> None:
    assert is_safetensors((0x0280).to_bytes(8, "little") + b"{")
    assert not is_safetensors(b"\x80\x02\x8a\nl\xfc\x9cF{")
