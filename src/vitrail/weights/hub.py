"""Where weights lie: a local path, or the folder into which a hub id "owner/name[@revision]" was downloaded."""

import difflib
import re
from pathlib import Path

from vitrail.errors import WeightsError, shown

_ID = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
_SETTINGS = ["config.json", "preprocessor_config.json"]
# Names that are meant for something on this machine: of a file, or of the folder that runs are in.
_FILE_ENDINGS = (
    ".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".tar", ".npz", ".pkl", ".onnx", ".h5", ".json", ".msgpack", ".zip"
)  # fmt: skip
_RUNS = "runs"
# In the order of preference; the first that the repository has is taken. Never a .py.
_WEIGHTS = (
    ["model.safetensors", "model.safetensors.index.json", "model-*.safetensors"],
    ["pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin"],
)


def fetch(where: str | Path) -> Path:
    """A local file or folder as it is; a hub id as the folder of its files, from the cache when there is no network.

    HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE are respected, as by every program that uses huggingface_hub.

    Raises:
        WeightsError: no such path, no such repository, or no way to it and nothing cached.
    """
    path = Path(where)
    if path.exists():
        return path
    found = _ID.fullmatch(str(where))
    if isinstance(where, Path) or found is None or _is_local(str(where)):
        near = _near(path)
        raise WeightsError(
            f"{shown(where)}: there are no weights here{'' if path.exists() else ', and no such file or folder'}.",
            expected="a file, a folder, builtin:NAME, or a hub id owner/name[@revision]",
            do=f"Did you mean {near}?"
            if near
            else "Weights that come with the package: builtin:cifar100, builtin:cifar100-conv.",
        )
    for patterns in _WEIGHTS:
        folder = _downloaded(found["name"], found["revision"], [*_SETTINGS, *patterns])
        if any(next(folder.glob(pattern), None) for pattern in patterns):
            return folder
    raise WeightsError(f"{where}: the repository holds no weights that are read.", expected="model.safetensors")


def _is_local(where: str) -> bool:
    """Whether a name that nothing has is meant for this machine, so that no server need be asked about it."""
    first = where.split("/", 1)[0]
    return where.startswith((".", "~")) or where.endswith(_FILE_ENDINGS) or first == _RUNS or Path(first).exists()


def _near(path: Path) -> str | None:
    """The entry of the same folder with the most similar name."""
    try:
        names = [entry.name for entry in path.parent.iterdir() if not entry.name.startswith(".")]
    except OSError:
        return None
    found = difflib.get_close_matches(path.name, names, n=1)
    return shown(path.parent / found[0]) if found else None


def _downloaded(name: str, revision: str | None, patterns: list[str]) -> Path:
    # Here, because the hub's HTTP client takes a tenth of a second to load, and most weights are local.
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=patterns))
    except RepositoryNotFoundError as error:
        raise WeightsError(
            f"{name}: no such file or folder, and no such repository on the hub (or it is private).",
            do="Check the name; for a private one log in with: hf auth login",
        ) from error
    except LocalEntryNotFoundError as error:
        raise WeightsError(
            f"{name}: no such file or folder; the hub cannot be reached and the cache does not hold it.",
            do="Go online once, or give a local folder.",
        ) from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise WeightsError(f"{name}: cannot be fetched from the hub.", got=shown(str(error).splitlines()[0])) from error
