"""What kind of weight file a file is, and whether its sizes are honest: seen in its first bytes and its headers.

Without torch, so that a damaged or hostile file is refused before that has loaded.
"""

import zipfile
from pathlib import Path
from typing import Literal

import safetensors

from vitrail.errors import WeightsError

MAX_TENSORS = 10_000
MAX_HEADER_BYTES = 25 << 20
MAX_EXPANSION = 20  # of a compressed .npz; weights hardly compress

Kind = Literal["safetensors", "npz", "torch"]


def kind_of(file: Path) -> Kind:
    """The kind of a weight file, by its content.

    Raises:
        WeightsError: no weight file, truncated, a header that lies about sizes, an archive that would grow far beyond
            its size, too many tensors.
    """
    try:
        with file.open("rb") as stream:
            head = stream.read(512)
        if len(head) > 9 and head[8:9] == b"{":
            _check_safetensors(file, int.from_bytes(head[:8], "little"))
            return "safetensors"
        if head[:4] == b"PK\x03\x04":
            return _kind_of_zip(file)
        if head[:1] == b"\x80":
            return "torch"
    except OSError as error:
        raise WeightsError(f"{file}: cannot be read.", got=error) from error
    what = "an empty file" if not head else "no weight file"
    if head.startswith(b"version https://git-lfs"):
        what = "a Git LFS pointer: the weights themselves were not downloaded (git lfs pull)"
    elif head.lstrip()[:1] == b"<":
        what = "a web page, saved in place of the weights"
    raise WeightsError(f"{file}: is {what}.", expected="safetensors, .npz, or a torch file")


def check_count(count: int, file: Path) -> None:
    """Raise WeightsError for more tensors than any model has."""
    if count > MAX_TENSORS:
        raise WeightsError(f"{file}: has too many tensors.", got=count, expected=f"at most {MAX_TENSORS}")


def _check_safetensors(file: Path, header_bytes: int) -> None:
    size = file.stat().st_size
    if header_bytes > min(MAX_HEADER_BYTES, size):
        raise WeightsError(
            f"{file}: truncated, or its header is damaged.",
            got=f"a header of {header_bytes} bytes",
            expected=f"at most {min(MAX_HEADER_BYTES, size)}",
        )
    try:
        with safetensors.safe_open(file, "np") as opened:
            check_count(len(opened.keys()), file)
    except (safetensors.SafetensorError, RuntimeError, ValueError) as error:
        raise WeightsError(f"{file}: damaged, or not a safetensors file.", got=error) from error


def _kind_of_zip(file: Path) -> Kind:
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, EOFError, NotImplementedError, zipfile.LargeZipFile) as error:
        raise WeightsError(f"{file}: a damaged archive.", got=error) from error
    check_count(len(members), file)
    size, expanded = file.stat().st_size, sum(m.file_size for m in members)
    torch_file = any(m.filename.endswith("data.pkl") for m in members)
    if expanded > size * (1 if torch_file else MAX_EXPANSION) + (1 << 20):
        raise WeightsError(
            f"{file}: would grow far beyond its size when it is unpacked.",
            got=f"{size} bytes to {expanded}",
            expected="weights, which hardly compress",
        )
    if torch_file:
        return "torch"
    if all(m.filename.endswith(".npy") for m in members) and members:
        return "npz"
    raise WeightsError(f"{file}: an archive without weights.", got=", ".join(m.filename for m in members[:3]))
