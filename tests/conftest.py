"""What every test stands on: no network, few threads, a cache folder of its own, and CIFAR where it lies.

Nothing of vitrail is imported here: the type checker has to be in place before the package is (pyproject.toml).
"""

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tests.support.typechecker  # noqa: F401  (looked up by name, as tests.support.typechecker.check)

ROOT = Path(__file__).resolve().parent.parent

# Read by torch when it is imported; subprocesses inherit them.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ["HF_HUB_OFFLINE"] = "1"
# Tests import the engines themselves, which would report it (vitrail.runtime.libraries).
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]


@pytest.fixture(autouse=True, scope="session")
def _no_network() -> Iterator[None]:
    """Let sockets reach this machine alone: a test that downloads fails by name instead of hanging."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in {"127.0.0.1", "::1", "localhost"}:
            raise RuntimeError(f"a test tried to reach {address!r}; tests use no network")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        yield


@pytest.fixture(autouse=True, scope="session")
def _cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what the package caches (decoded images, downloads) out of the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def cifar_root() -> Path:
    """The folder that holds cifar10/ and cifar100/ as Parquet shards; the test is skipped without it."""
    root = Path(os.environ.get("VITRAIL_DATA") or ROOT.parent / "shared" / "data")
    if not (root / "cifar10").is_dir():
        pytest.skip("no CIFAR-10: set VITRAIL_DATA to the folder that holds cifar10/")
    return root
