"""Weight files of any kind to named tensors, without running anything that is in them.

In: a file, a folder, or a hub id. Out: a `Source`. The kind is told by content, not by suffix: safetensors, .npz, or a
torch file read by `torch.load(weights_only=True)`. Sizes are checked before anything is allocated (kinds.py).
"""

import argparse
import hashlib
import json
import math
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError  # noqa: TID251  (the exception that torch.load raises; nothing is unpickled)
from typing import Any, cast

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from vitrail.errors import WeightsError
from vitrail.weights.foreign import Source
from vitrail.weights.hub import fetched
from vitrail.weights.kinds import check_count, kind_of

_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "module", "teacher")
_TOOL_PREFIXES = ("module.", "_orig_mod.")
_SHARED_PREFIXES = ("model.", "backbone.", "visual.trunk.", "timm_model.", "student.", "teacher.")
_WHOLE = ("model.safetensors", "pytorch_model.bin")
_DAMAGED = (
    safetensors.SafetensorError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    OSError,
    struct.error,
)
_SUFFIXES = (".safetensors", ".npz", ".bin", ".pth", ".pt", ".tar", ".ckpt")


def open_source(where: str | Path) -> Source:
    """Open a weight file or folder, or a hub id "owner/name[@revision]".

    Raises:
        WeightsError: nothing there, damaged, hostile, of no known kind, or numbers that are not finite.
    """
    path = fetched(where)
    files, index, folder = _files(path)
    tensors: dict[str, Tensor] = {}
    kinds: set[str] = set()
    notes: list[str] = []
    for file in files:
        kind, found = _read(file)
        kinds.add(kind)
        wanted = index.get(file.name)
        if wanted is not None and set(wanted) != found.keys():
            odd = sorted(set(wanted) ^ found.keys())
            raise WeightsError(f"{file}: holds other tensors than the index says.", got=", ".join(odd[:5]))
        plain, said = _unwrapped(found, file)
        tensors.update(plain)
        notes += said
    _check_finite(tensors, path)
    config, preprocessor = (_json(folder / name) for name in ("config.json", "preprocessor_config.json"))
    return Source(
        path=path,
        tensors=tensors,
        container=kinds.pop() if len(kinds) == 1 else "several",
        config=config,
        preprocessor=preprocessor,
        notes=tuple(dict.fromkeys(notes)),
        sha256=_sha256(files),
    )


def _files(path: Path) -> tuple[list[Path], dict[str, list[str]], Path]:
    """The files to read, what an index says each must hold, and the folder whose config.json counts."""
    if path.is_file():
        return [path], {}, path.parent if path.name in _WHOLE else path / "none"
    for name in _WHOLE:
        index_file = path / f"{name}.index.json"
        if (path / name).is_file():
            return [path / name], {}, path
        if index_file.is_file():
            weight_map = _json(index_file).get("weight_map")
            if not isinstance(weight_map, dict) or not weight_map:
                raise WeightsError(f"{index_file}: has no weight_map.")
            index: dict[str, list[str]] = {}
            for tensor, shard in cast(dict[str, Any], weight_map).items():
                if not isinstance(shard, str) or Path(shard).name != shard or not (path / shard).is_file():
                    raise WeightsError(f"{index_file}: the shard of {tensor} is not there.", got=shard)
                index.setdefault(shard, []).append(tensor)
            return [path / shard for shard in sorted(index)], index, path
    single = sorted(f for f in path.iterdir() if f.suffix in _SUFFIXES and f.is_file())
    if len(single) != 1:
        raise WeightsError(
            f"{path}: there are no weights here, or several.",
            got=", ".join(f.name for f in single) or "no weight file",
            expected=f"{', '.join(_WHOLE)}, or a single weight file",
            do="Give the file itself.",
        )
    return single, {}, path


def _read(file: Path) -> tuple[str, dict[str, Any]]:
    """One file to (kind, names and values)."""
    kind = kind_of(file)
    return kind, {"safetensors": _safetensors, "npz": _npz, "torch": _torch}[kind](file)


def _safetensors(file: Path) -> dict[str, Any]:
    try:
        return cast(dict[str, Any], safetensors.torch.load_file(file))
    except (safetensors.SafetensorError, RuntimeError, ValueError, OSError) as error:
        raise WeightsError(f"{file}: damaged, or not a safetensors file.", got=error) from error


def _npz(file: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(file) as archive:
            return {m.filename.removesuffix(".npy"): _npy(archive, m, file) for m in archive.infolist()}
    except (zipfile.BadZipFile, EOFError, NotImplementedError, OSError) as error:
        raise WeightsError(f"{file}: a damaged archive.", got=error) from error


def _npy(archive: zipfile.ZipFile, member: zipfile.ZipInfo, file: Path) -> Tensor:
    """One array; its header is compared with its size before memory is taken."""
    where = f"{file}: array {member.filename}"
    try:
        with archive.open(member) as stream:
            version = np.lib.format.read_magic(stream)
            reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = reader(stream)
            if dtype.hasobject:
                raise WeightsError(f"{where} holds Python objects, which are never read.", expected="numbers")
            if math.prod(shape) * dtype.itemsize > member.file_size:
                raise WeightsError(f"{where} says it is larger than it is.", got=f"{list(shape)} {dtype}")
            raw = stream.read()
    except (ValueError, OSError) as error:
        raise WeightsError(f"{where} is damaged.", got=error) from error
    count = math.prod(shape)
    if len(raw) != count * dtype.itemsize:
        raise WeightsError(f"{where} is damaged.", got=f"{len(raw)} bytes", expected=count * dtype.itemsize)
    if dtype == np.dtype("V2"):  # bfloat16, which numpy does not know
        bits = np.frombuffer(raw, np.uint16).reshape(shape, order="F" if fortran else "C").astype(np.uint32) << 16
        return torch.from_numpy(bits.view(np.float32).copy())
    if dtype.kind not in "fiub":
        raise WeightsError(f"{where} holds no numbers.", got=dtype)
    array = np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran else "C")
    return torch.from_numpy(np.ascontiguousarray(array.astype(dtype.newbyteorder("="))).reshape(shape))


def _torch(file: Path) -> dict[str, Any]:
    """A pickled file, by the restricted unpickler; argparse.Namespace is let through, in which timm keeps settings."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; what cannot be read is an error below
            loaded = torch.load(file, map_location="cpu", weights_only=True)  # noqa: TID251  (foreign files)
    except UnpicklingError as error:
        reason = str(error).split("WeightsUnpickler error:")[-1].strip().splitlines()[0]
        raise WeightsError(
            f"{file}: refused, it asks for more than tensors.",
            got=reason,
            expected="a dictionary of tensors",
            do="Save only the state_dict in the library that made it, best as safetensors.",
        ) from error
    except _DAMAGED as error:
        raise WeightsError(
            f"{file}: a damaged torch file.", got=(str(error) or type(error).__name__).splitlines()[0]
        ) from error
    if not isinstance(loaded, dict):
        raise WeightsError(f"{file}: holds no dictionary.", got=type(loaded).__name__, expected="a state_dict")
    check_count(len(cast(dict[str, Any], loaded)), file)
    return cast(dict[str, Any], loaded)


def _unwrapped(found: Mapping[str, Any], file: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Take the weights out of training files and remove the prefixes of training tools."""
    notes: list[str] = []
    while wrapper := next((w for w in _WRAPPERS if isinstance(found.get(w), dict)), None):
        notes.append(f"taken from {wrapper!r} of a training file")
        found = cast(dict[str, Any], found[wrapper])
    wrong = next((name for name, value in found.items() if not isinstance(value, Tensor)), None)
    if wrong is not None:
        raise WeightsError(
            f"{file}: the entry {wrong!r} is no tensor.", got=type(found[wrong]).__name__, expected="tensors by name"
        )
    tensors = cast(dict[str, Tensor], dict(found))
    if not tensors:
        raise WeightsError(f"{file}: holds no tensor.")
    for _ in range(len(_TOOL_PREFIXES) * 3):
        for prefix in (*_TOOL_PREFIXES, *_SHARED_PREFIXES):
            if all(name.startswith(prefix) for name in tensors):
                notes.append(f"prefix {prefix!r} removed")
                tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors, notes


def _check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            if name.endswith("bias_mask"):  # DINOv3 marks unused entries with NaN
                continue
            count = int((~tensor.isfinite()).sum())
            raise WeightsError(f"{path}: tensor {name} holds {count} values that are not finite.")


def _json(file: Path) -> dict[str, Any]:
    """A JSON object; empty when there is no such file."""
    if not file.is_file():
        return {}
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise WeightsError(f"{file}: is not JSON.", got=error) from error
    if not isinstance(values, dict):
        raise WeightsError(f"{file}: is not a JSON object.", got=type(values).__name__)
    return cast(dict[str, Any], values)


def _sha256(files: list[Path]) -> str:
    """Of one file; of several, of their hashes."""
    hashes: list[str] = []
    for file in files:
        with file.open("rb") as stream:
            hashes.append(hashlib.file_digest(stream, "sha256").hexdigest())
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
