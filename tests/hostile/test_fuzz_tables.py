"""Mutants of honest tables, packed sets and official archives: an answer or one error, in bounded time and memory.

3,000 Parquet files, 3,000 manifests, 5,000 packed sets and 2,000 archives of CIFAR; VITRAIL_FUZZ_PARQUET,
VITRAIL_FUZZ_MANIFEST, VITRAIL_FUZZ_PACK and VITRAIL_FUZZ_CIFAR ask for other numbers. Mutant number N is the same on
every machine.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hostile import run_mutants
from tests.support.hostile_tables import KINDS, make_tables
from vitrail import data
from vitrail.config import DataConfig
from vitrail.data.sources import official
from vitrail.data.sources.official import open_cifar
from vitrail.selftest.fork_server import ForkServer

pytestmark = [pytest.mark.slow, pytest.mark.unchecked]

COUNTS = {"parquet": 3000, "manifest": 3000, "pack": 5000, "cifar": 2000}


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with ForkServer() as server:
        yield server


@pytest.mark.parametrize("kind", KINDS)
def test_the_honest_ones_are_read(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(official, "check_official", lambda _path, _name: None)
    make_tables(kind, str(tmp_path / "seeds"))
    for path in (tmp_path / "seeds").iterdir():
        if kind == "cifar":
            assert len(open_cifar(path, "cifar10").splits["train"]) in (20, 30)
            continue
        table = next(path.glob("*.?sv")) if kind == "manifest" else path
        assert data.summary(DataConfig(spec=str(table), image_size=8))["classes"]


@pytest.mark.parametrize("kind", KINDS)
def test_mutants(kind: str, server: ForkServer, tmp_path: Path) -> None:
    make_tables(kind, str(tmp_path / "seeds"))
    job = {"kind": kind, "folder": str(tmp_path / "seeds")}
    variable = f"VITRAIL_FUZZ_{kind.upper()}"
    run_mutants(server, "tests.support.hostile_tables:attempt_tables", job, variable, COUNTS[kind], tmp_path / "log")
