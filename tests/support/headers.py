"""The header of a safetensors file, taken apart and written again."""

import json
from pathlib import Path
from typing import Any

from vitrail.tensor_header import HEADER_SHA256, header_sha256


def parts_of(path: Path) -> tuple[dict[str, Any], bytes]:
    """The header, and the bytes of the tensors."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def write_file(path: Path, header: dict[str, Any] | bytes, body: bytes = b"") -> Path:
    """Write a file with this header, whatever it says."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    return path


def change_card(path: Path, described: dict[str, Any] | str) -> Path:
    """Give a model file of ours another description, with the right hash of its header."""
    header, body = parts_of(path)
    header["__metadata__"]["vitrail"] = described if isinstance(described, str) else json.dumps(described)
    return write_file(path, rehashed(header), body)


def rehashed(header: dict[str, Any]) -> dict[str, Any]:
    """A header with the hash of itself."""
    header["__metadata__"][HEADER_SHA256] = header_sha256(header)
    return header


def card_of(path: Path) -> dict[str, Any]:
    """What a model file of ours says about itself."""
    return json.loads(parts_of(path)[0]["__metadata__"]["vitrail"])
