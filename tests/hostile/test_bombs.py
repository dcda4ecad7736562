"""Small files that cost much: refused within 2 s and 256 MiB, by one error of ours (docs/security.md)."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.bombs import CIFAR, TABLES, WEIGHTS
from vitrail.selftest.fork_server import ForkServer

pytestmark = [pytest.mark.slow, pytest.mark.unchecked]


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with ForkServer() as server:
        yield server


CASES = [("weights", WEIGHTS, name) for name in WEIGHTS] + [("cifar10", CIFAR, name) for name in CIFAR]
CASES += [("data", TABLES, name) for name in TABLES]


@pytest.mark.parametrize(("target", "makers", "name"), CASES, ids=[name for *_, name in CASES])
def test_a_bomb_is_refused(
    target: str, makers: dict[str, Callable[[Path], Path]], name: str, server: ForkServer, tmp_path: Path
) -> None:
    (tmp_path / "f").mkdir()
    path, log = makers[name](tmp_path / "f"), tmp_path / "log"
    ended = server.run("tests.support.hostile:attempt", {"target": target, "path": str(path)}, log=log, timeout=90)
    assert ended.statuses == [0], f"{ended}\n{log.read_text()[-2000:]}"
