"""The header of a safetensors file, checked before any library opens the file.

In: a path. Out: names, types and shapes of the tensors, and the metadata; or one WeightsError, before memory is taken
for what the header only claims. Without torch.

Source: the description of the format in huggingface/safetensors.
"""

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from vitrail.errors import WeightsError, shown
from vitrail.reading import open_regular, parsed_json

MAX_TENSORS = 10_000
MAX_HEADER_BYTES = 25 << 20
"""The largest model on the hub that is one file has a header below 1 MB."""
_BITS = {
    "F4": 4,
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
}
HEADER_SHA256 = "header_sha256"
"""In the metadata: the SHA-256 of all of the header but this entry, as `model.tensor_file` writes it."""


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of itself."""

    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    """As the format calls them: F32, BF16, ..."""
    metadata: dict[str, str]
    entries: dict[str, Any]
    """The whole header, in its order."""


def is_safetensors(head: bytes) -> bool:
    """Whether a file that begins with these bytes, 9 or more, is safetensors or says so."""
    # A pickle may begin so too, but no header is so long that the bytes 6 and 7 of its length count.
    is_other = head.startswith(b"PK\x03\x04") or (head[:1] == b"\x80" and head[6:8] != bytes(2))
    return len(head) > 8 and head[8:9] == b"{" and not is_other


def read_header(path: Path, most_tensors: int = MAX_TENSORS) -> Header:
    """Read and check the header of a safetensors file.

    Raises:
        WeightsError: it cannot be read, is truncated, has tensors that overlap, leave gaps or do not fill the file, has
            a name twice, or more tensors or a longer header than any model.
    """
    try:
        with open_regular(path) as file:
            length = int.from_bytes(file.read(8), "little")
            size = file.seek(0, 2)
            most = min(MAX_HEADER_BYTES, max(size - 8, 0))
            if not 2 <= length <= most:
                raise WeightsError(
                    f"{shown(path)}: truncated, or its header is damaged.",
                    got=f"a header of {length} bytes",
                    expected=f"at most {most}",
                )
            file.seek(8)
            raw = file.read(length)
        header = parsed_json(raw)
        if not isinstance(header, dict):
            raise ValueError("its header is not a JSON object")
        return _checked(cast(dict[str, Any], header), size - 8 - length, most_tensors)
    except (OSError, ValueError) as error:
        if isinstance(error, WeightsError):
            raise
        reason = error.strerror if isinstance(error, OSError) else error
        raise WeightsError(
            f"{shown(path)}: its header is damaged, or it is not a safetensors file.", got=reason
        ) from error


def header_sha256(entries: dict[str, Any]) -> str:
    """The SHA-256 of a header, without the entry that says it."""
    metadata = {name: text for name, text in entries.get("__metadata__", {}).items() if name != HEADER_SHA256}
    return hashlib.sha256(json.dumps({**entries, "__metadata__": metadata}).encode()).hexdigest()


def _checked(entries: dict[str, Any], data_bytes: int, most_tensors: int) -> Header:
    """The header's parts. Raises ValueError."""
    metadata = entries.get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in cast(dict[str, Any], metadata).values()):
        raise ValueError("its metadata are not texts by name")
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, str] = {}
    spans: list[tuple[int, int]] = []
    tensors = {name: entry for name, entry in entries.items() if name != "__metadata__"}
    if len(tensors) > most_tensors:
        raise ValueError(f"{len(tensors)} tensors, more than {most_tensors}")
    for name, entry in tensors.items():
        try:
            dtype, shape, (start, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
            whole = all(type(number) is int and number >= 0 for number in (*shape, start, stop))
            if not whole or 8 * (stop - start) != -(-math.prod(shape) * _BITS[dtype] // 8) * 8:
                raise ValueError
        except (TypeError, KeyError, ValueError, OverflowError):
            raise ValueError(f"tensor {shown(name)} has no such type, shape and place: {shown(entry)}") from None
        shapes[name], dtypes[name] = tuple(shape), dtype
        spans.append((start, stop))
    end = 0
    for start, stop in sorted(spans):
        if start != end:
            raise ValueError(f"the tensors' bytes overlap or leave a gap at {min(start, end)}")
        end = stop
    if end != data_bytes:
        raise ValueError(f"{data_bytes} bytes of tensors where the header says {end}")
    return Header(shapes, dtypes, cast(dict[str, str], metadata), entries)
