"""What kind of weight file a file is, and whether its sizes are honest: seen in its first bytes and its headers.

Without torch, so that a damaged or hostile file is refused before that has loaded.
"""

from pathlib import Path
from typing import Literal

from vitrail.errors import WeightsError, shown
from vitrail.reading import open_regular
from vitrail.tensor_header import MAX_TENSORS, is_safetensors, read_header
from vitrail.weights.archive import checked_members, pickle_of

_READ = "safetensors, .npz, or a torch file"
_FROM_TORCH = (
    "Take the weights from before the export: what torch.save(model.state_dict(), ...) or save_pretrained writes."
)
_FROM_ONNX = (
    "If vitrail export wrote it: predict, inspect and serve take it, everything else the run that it was made of. "
    + _FROM_TORCH
)
_FROM_OTHER = "Open it in its own library and save the weights as safetensors in the form of transformers or timm."
# First bytes of kinds that people have and that are not read -> what they are, what to do.
_KNOWN = (
    (b"\x89HDF", "HDF5, of Keras or TensorFlow, which is not read", _FROM_OTHER),
    (b"GGUF", "GGUF, for llama.cpp, which is not read", _FROM_TORCH),
    (b"\x1f\x8b", "a gzip archive", "Unpack it first."),
    (b"BZh", "a bzip2 archive", "Unpack it first."),
    (b"\xfd7zXZ", "an xz archive", "Unpack it first."),
    (b"7z\xbc\xaf", "a 7z archive", "Unpack it first."),
)
# A file in a folder -> what the folder is, what to do.
_KNOWN_FOLDERS = (
    (
        "adapter_config.json",
        "a LoRA adapter, which is not a model by itself",
        "Merge it into its base with peft (model.merge_and_unload(), then save_pretrained) and give that folder.",
    ),
    ("saved_model.pb", "a SavedModel of TensorFlow, which is not read", _FROM_OTHER),
    ("flax_model.msgpack", "weights of Flax, which are not read in this form", _FROM_OTHER),
    ("tf_model.h5", "weights of TensorFlow, which are not read", _FROM_OTHER),
    (
        ".metadata",
        "a distributed checkpoint of torch, in pieces",
        "Join it: python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE.pth",
    ),
    (
        "*.onnx",
        "an ONNX export, which is not read here",
        _FROM_ONNX,
    ),
    ("*.gguf", "GGUF, for llama.cpp, which is not read", _FROM_TORCH),
    ("*.tflite", "an export for TensorFlow Lite, which is not read", _FROM_TORCH),
    ("*.h5", "HDF5, of Keras or TensorFlow, which is not read", _FROM_OTHER),
)

Kind = Literal["safetensors", "npz", "torch"]


def kind_of(file: Path) -> Kind:
    """The kind of a weight file, by its content.

    Raises:
        WeightsError: no weight file, truncated, a header that lies about sizes, an archive that would grow far beyond
            its size, too many tensors.
    """
    try:
        with open_regular(file) as stream:
            head = stream.read(512)
        if is_safetensors(head):
            read_header(file)
            return "safetensors"
        if head[:4] == b"PK\x03\x04":
            return _kind_of_zip(file)
        if head[:1] == b"\x80":
            return "torch"
    except OSError as error:
        raise WeightsError(f"{file}: cannot be read.", got=error) from error
    what, do = ("an empty file", "Fetch it again.") if not head else ("not a weight file", None)
    if head.startswith(b"version https://git-lfs"):
        what, do = "a Git LFS pointer: the weights themselves were not downloaded", "Run git lfs pull."
    elif head.lstrip()[:1] == b"<":
        what, do = (
            "a web page, saved in place of the weights",
            "Fetch the file itself: its address has /resolve/ in it.",
        )
    elif known := next((k for k in _KNOWN if head.startswith(k[0])), None):
        _, what, do = known
    elif head[4:8] == b"TFL3":
        what, do = "an export for TensorFlow Lite, which is not read", _FROM_TORCH
    elif head[257:262] == b"ustar":
        what, do = "a tar archive", "Unpack it first."
    elif head[:1] == b"\x08" and (file.suffix == ".onnx" or b"pytorch" in head[:64] or b"onnx" in head[:64]):
        what, do = "an ONNX export, which is not read here", _FROM_ONNX
    elif file.suffix == ".msgpack":
        what, do = "weights of Flax, which are not read in this form", _FROM_OTHER
    raise WeightsError(f"{file}: is {what}.", expected=_READ, do=do)


def unread_folder(folder: Path) -> tuple[str, str] | None:
    """What a folder without the usual weight files is, and what to do about it; None: nothing that is known."""
    for pattern, what, do in _KNOWN_FOLDERS:
        if next(folder.glob(pattern), None):
            return f"this is {what}", do
    inside = sorted(f.name for f in folder.glob("checkpoint-*") if f.is_dir())
    if inside:
        return "the weights are in the folders of its checkpoints", f"Give one of them: {shown(', '.join(inside))}."
    return None


def check_count(count: int, file: Path) -> None:
    """Raise WeightsError for more tensors than any model has."""
    if count > MAX_TENSORS:
        raise WeightsError(f"{file}: has too many tensors.", got=count, expected=f"at most {MAX_TENSORS}")


def _kind_of_zip(file: Path) -> Kind:
    members = checked_members(file)
    if any(m.filename.endswith("constants.pkl") for m in members):
        raise WeightsError(f"{file}: is a TorchScript program, which is not read.", expected=_READ, do=_FROM_TORCH)
    if pickle_of(members):
        return "torch"
    if all(m.filename.endswith(".npy") for m in members) and members:
        return "npz"
    keras = any(m.filename.endswith("model.weights.h5") for m in members)
    raise WeightsError(
        f"{file}: a model of Keras, which is not read." if keras else f"{file}: an archive without weights.",
        got=shown(", ".join(m.filename for m in members[:3])),
        expected=_READ,
        do=_FROM_OTHER if keras else "Unpack it first, and give the file with the weights.",
    )
