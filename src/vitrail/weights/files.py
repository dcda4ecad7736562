"""Weight files of any kind to named tensors, without running anything that is in them.

In: a file, a folder, or a hub id. Out: a `Source`. The kind is told by content, not by suffix: safetensors, .npz, or a
torch file read by `torch.load(weights_only=True)`. Sizes are checked before anything is allocated (kinds.py).
"""

import hashlib
import io
import math
import re
import tokenize
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError  # noqa: TID251  (the exception that torch.load raises; nothing is unpickled)
from typing import Any, cast

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from vitrail.errors import WeightsError, shown
from vitrail.reading import DAMAGE, open_regular
from vitrail.weights.archive import MAX_PICKLE_BYTES, check_sums, checked_members, pickle_of
from vitrail.weights.file_kinds import check_count, kind_of, unread_folder
from vitrail.weights.hub import fetch
from vitrail.weights.key_table import WeightSource
from vitrail.weights.pickle_stubs import INERT, Inert, plain
from vitrail.weights.pickles import check_pickle
from vitrail.weights.sidecar import CONFIG, INDEX, PREPROCESSOR, read_sidecar

_WHOLE = ("model.safetensors", "pytorch_model.bin")
_DAMAGED = (*DAMAGE, safetensors.SafetensorError)
_SUFFIXES = (".safetensors", ".npz", ".bin", ".pth", ".pt", ".tar", ".ckpt")
# What trainers put beside the weights in a folder.
_COMPANIONS = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state|random_states)\b.*|.*_states?_\d+\..*")
# Of torch.compile, FSDP, activation checkpointing, and Fabric.
_WRAPPING_MODULES = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_forward_module.")
_MOST_TOLD = 20
_OLD_PICKLES = 5  # before the numbers in the form that torch wrote until 1.5
_MOST_TIMES = 4  # tensors that share their numbers may be in a file more than once
_MOST_DEPTH = 6  # of dictionaries within dictionaries


def open_source(where: str | Path) -> WeightSource:
    """Open a weight file or folder, or a hub id "owner/name[@revision]".

    Raises:
        WeightsError: nothing there, damaged, hostile, or of no known kind.
    """
    path = fetch(where)
    files, index, folder = _files(path)
    tensors: dict[str, Tensor] = {}
    nested: set[str] = set()
    told: dict[str, Any] = {}
    kinds: set[str] = set()
    for file in files:
        kind, found = _read(file)
        kinds.add(kind)
        wanted = index.get(file.name)
        if wanted is not None and set(wanted) != found.keys():
            odd = sorted(set(wanted) ^ found.keys())
            raise WeightsError(f"{file}: holds other tensors than the index says.", got=shown(", ".join(odd[:5])))
        before = len(tensors)
        _flatten(found, file, tensors, nested, told)
        check_count(len(tensors), file)
        if kind == "torch":
            _check_room(dict(list(tensors.items())[before:]), file)
    if not tensors:
        raise WeightsError(f"{path}: holds no tensor.")
    clean = {_cleaned(name): tensor for name, tensor in tensors.items()}
    if len(clean) == len(tensors):
        tensors, nested = clean, set(map(_cleaned, nested))
    check_count(len(tensors), path)
    config = read_sidecar(folder / "config.json", CONFIG)
    preprocessor = read_sidecar(folder / "preprocessor_config.json", PREPROCESSOR)
    return WeightSource(
        path=path,
        tensors=tensors,
        container=kinds.pop() if len(kinds) == 1 else "several",
        config=config,
        preprocessor=preprocessor,
        sha256=_sha256(files),
        nested=frozenset(nested),
        told=told,
    )


def _files(path: Path) -> tuple[list[Path], dict[str, list[str]], Path]:
    """The files to read, what an index says each must hold, and the folder whose config.json counts."""
    if not path.is_dir():
        return [path], {}, path.parent if path.name in _WHOLE else path / "none"
    for name in _WHOLE:
        index_file = path / f"{name}.index.json"
        if (path / name).is_file():
            return [path / name], {}, path
        if index_file.is_file():
            weight_map: dict[str, str] = read_sidecar(index_file, INDEX).get("weight_map", {})
            if not weight_map:
                raise WeightsError(f"{index_file}: has no weight_map.")
            index: dict[str, list[str]] = {}
            for tensor, shard in weight_map.items():
                if Path(shard).name != shard or not (path / shard).is_file():
                    raise WeightsError(f"{index_file}: the shard of {shown(tensor)} is not there.", got=shown(shard))
                index.setdefault(shard, []).append(tensor)
            return [path / shard for shard in sorted(index)], index, path
    single = [f for f in sorted(path.iterdir()) if f.suffix in _SUFFIXES and f.is_file()]
    single = [f for f in single if not _COMPANIONS.fullmatch(f.name)] if len(single) > 1 else single
    if known := unread_folder(path):
        raise WeightsError(f"{path}: {known[0]}.", do=known[1])
    if len(single) != 1:
        raise WeightsError(
            f"{path}: there are no weights here, or several.",
            got=shown(", ".join(f.name for f in single)) or "no weight file",
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
    except _DAMAGED as error:
        raise WeightsError(f"{file}: damaged, or not a safetensors file.", got=error) from error


def _npz(file: Path) -> dict[str, Any]:
    members = checked_members(file)
    with open_regular(file) as stream, zipfile.ZipFile(stream) as archive:
        return {member.filename.removesuffix(".npy"): _npy(archive, member, file) for member in members}


def _npy(archive: zipfile.ZipFile, member: zipfile.ZipInfo, file: Path) -> Tensor:
    """One array; its header is compared with its size before memory is taken."""
    where = f"{file}: array {shown(member.filename)}"
    try:
        with archive.open(member) as stream:
            version = np.lib.format.read_magic(stream)
            reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = reader(stream)
            if dtype.hasobject:
                raise WeightsError(f"{where} holds Python objects, which are never read.", expected="numbers")
            count = math.prod(shape)
            if count * dtype.itemsize > member.file_size:
                raise WeightsError(f"{where} says it is larger than it is.", got=f"{list(shape)} {dtype}")
            raw = stream.read()
        if len(raw) != count * dtype.itemsize:
            raise WeightsError(f"{where} is damaged.", got=f"{len(raw)} bytes", expected=count * dtype.itemsize)
        if dtype == np.dtype("V2"):  # bfloat16, which numpy does not know
            bits = np.frombuffer(raw, np.uint16).reshape(shape, order="F" if fortran else "C").astype(np.uint32) << 16
            return torch.from_numpy(bits.view(np.float32).copy())
        if dtype.kind not in "fiub":
            raise WeightsError(f"{where} holds no numbers.", got=dtype)
        array = np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran else "C")
        return torch.from_numpy(np.ascontiguousarray(array.astype(dtype.newbyteorder("="))).reshape(shape))
    except (*_DAMAGED, SyntaxError, tokenize.TokenError) as error:  # the header is an expression of Python
        raise WeightsError(f"{where} is damaged.", got=error) from error


def _torch(file: Path) -> dict[str, Any]:
    """A pickled file, by the restricted unpickler; settings of training tools are let through as inert objects."""
    try:
        with torch.serialization.safe_globals(list(INERT)), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; what cannot be read is an error below
            _check_pickles(file)
            with file.open("rb") as stream:  # a path that ends in .safetensors would be read as that
                loaded = torch.load(stream, map_location="cpu", weights_only=True)  # noqa: TID251  (foreign files)
    except UnpicklingError as error:
        reason = str(error).split("WeightsUnpickler error:")[-1].strip().splitlines()[0]
        if "Unsupported operand" in reason:
            raise _a_pickle(file) from error
        raise WeightsError(
            f"{file}: refused, it asks for more than tensors.",
            got=shown(reason),
            expected="a dictionary of tensors",
            do="Save only the state_dict in the library that made it, best as safetensors.",
        ) from error
    except _DAMAGED as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        if "magic number" in reason:
            raise _a_pickle(file) from error
        raise WeightsError(f"{file}: a damaged torch file.", got=shown(reason)) from error
    if not isinstance(loaded, dict):
        raise WeightsError(f"{file}: holds no dictionary.", got=type(loaded).__name__, expected="a state_dict")
    return {name: plain(value) for name, value in cast(dict[str, Any], loaded).items()}


def _check_pickles(file: Path) -> None:
    """Raise ValueError for pickles that are built in another way than those of weights, and for damaged members."""
    with file.open("rb") as stream:
        if stream.read(4) == b"PK\x03\x04":
            members = checked_members(file)
            check_sums(file, members)
            member = pickle_of(members)
            if member is None or member.file_size > MAX_PICKLE_BYTES:
                raise ValueError(f"{member.file_size if member else 'no'} bytes of names")
            with zipfile.ZipFile(stream) as archive:
                check_pickle(io.BytesIO(archive.read(member)))
            return
        stream.seek(0)
        for _ in range(_OLD_PICKLES):
            check_pickle(stream)
            if not stream.peek(1):
                return


def _check_room(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Raise WeightsError for tensors that are larger than the file: views that show the same numbers many times."""
    most = _MOST_TIMES * file.stat().st_size + (1 << 20)
    total = 0
    for name, tensor in tensors.items():
        held = tensor.untyped_storage().nbytes() if tensor.layout is torch.strided and not tensor.is_quantized else 0
        total += tensor.numel() * tensor.element_size()
        if tensor.layout is torch.strided and (tensor.numel() * tensor.element_size() > max(held, 0) or total > most):
            raise WeightsError(
                f"{file}: tensor {shown(name)} says that it is larger than the file.",
                got=f"{list(tensor.shape)} with strides {list(tensor.stride())}",
                expected=f"at most {most} bytes in all",
            )


def _a_pickle(file: Path) -> WeightsError:
    return WeightsError(
        f"{file}: a Python pickle, no torch file.",
        expected="what torch.save(model.state_dict(), ...) writes",
        do="Open it where it was made and save the tensors with safetensors.",
    )


def _flatten(
    found: Mapping[Any, Any], file: Path, tensors: dict[str, Tensor], nested: set[str], told: dict[str, Any]
) -> None:
    """Give the tensors in a file, those in its dictionaries too, one name each, and take down what is told beside."""
    plain = any(isinstance(value, Tensor) for value in found.values())
    for key, value in found.items():
        name = str(key)
        if isinstance(value, Tensor):
            tensors[name] = value.detach()
            value = value.item() if value.ndim == 0 and value.dtype != torch.bfloat16 else None
        if isinstance(value, Mapping):
            for inner, tensor in _tensors_below(cast(Mapping[Any, Any], value), f"{name}.", _MOST_DEPTH):
                tensors[inner] = tensor.detach()
                nested.add(inner)
        elif isinstance(value, bool | int | float | str):
            if len(told) < _MOST_TOLD and (not isinstance(value, float) or math.isfinite(value)):
                told[shown(name, 40)] = shown(value) if isinstance(value, str) else value
        elif value is not None and not isinstance(value, Tensor) and plain and not isinstance(value, Inert):
            if "_packed_params" in name:
                raise WeightsError(
                    f"{file}: a quantised model, which is not read.",
                    got=shown(name),
                    do="Give the weights from before the quantisation.",
                )
            raise WeightsError(
                f"{file}: the entry {shown(name)!r} is no tensor.", got=type(value).__name__, expected="tensors by name"
            )


def _cleaned(name: str) -> str:
    """A name without the modules that training tools wrap around others, at any depth."""
    for part in _WRAPPING_MODULES:
        name = name.replace(part, "")
    return name


def _tensors_below(found: Mapping[Any, Any], prefix: str, depth: int) -> Iterator[tuple[str, Tensor]]:
    for key, value in found.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{key}", value
        elif isinstance(value, Mapping) and depth:
            yield from _tensors_below(cast(Mapping[Any, Any], value), f"{prefix}{key}.", depth - 1)


def _sha256(files: list[Path]) -> str:
    """Of one file; of several, of their hashes."""
    hashes: list[str] = []
    for file in files:
        with open_regular(file) as stream:
            hashes.append(hashlib.file_digest(stream, "sha256").hexdigest())
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
