"""Named tensors -> a safetensors file in pieces, without a copy, and the same bytes every time.

The library's own writer orders the entries of the metadata anew in each process. Files are read back by the library.

Source: the description of the format in huggingface/safetensors.
"""

import hashlib
import json
from typing import Any

import torch
from torch import Tensor

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def tensor_file(tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> list[bytes | memoryview]:
    """The content of a file: length of the header, header, then the bytes of each tensor, the widest types first.

    Args:
        tensors: on the CPU; they must not change before the pieces are written.
        metadata: written into the header in this order, with "sha256" of the tensors' bytes after it, and
            then "header_sha256" of the header so far.
    """
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    pieces: list[bytes | memoryview] = [t.contiguous().flatten().view(torch.uint8).numpy().data for _, t in ordered]
    header: dict[str, Any] = {}
    if metadata is not None:
        header["__metadata__"] = {**metadata, "sha256": _sha256(pieces)}
    at = 0
    for (name, tensor), piece in zip(ordered, pieces, strict=True):
        end = at + memoryview(piece).nbytes
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, end]}
        at = end
    if metadata is not None:
        header["__metadata__"]["header_sha256"] = hashlib.sha256(json.dumps(header).encode()).hexdigest()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little"), text, *pieces]


def tensors_sha256(tensors: dict[str, Tensor]) -> str:
    """The "sha256" that `tensor_file` writes for these tensors."""
    return _sha256(tensor_file(tensors)[2:])


def _sha256(pieces: list[bytes | memoryview]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()
