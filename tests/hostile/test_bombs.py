"""Small files that cost much: answered within 2 s and 256 MiB, or refused by one error of ours (docs/security.md)."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.bombs import CIFAR, TABLES, WEIGHTS
from tests.support.image_bombs import LARGE, SMALL
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


def _run(server: ForkServer, job: str, arguments: dict[str, object], log: Path) -> None:
    ended = server.run(f"tests.support.hostile:{job}", arguments, log=log, timeout=600)
    assert ended.statuses == [0], f"{ended}\n{log.read_text()[-2000:]}"


@pytest.mark.parametrize("name", SMALL)
def test_an_image_costs_little(name: str, server: ForkServer, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(SMALL[name]())
    bounds = {"mib": 8 * 36e6 / 2**20} if "one bit" in name else {}  # pages of black and white may be larger
    _run(server, "attempt", {"target": "image", "path": str(tmp_path / "image"), **bounds}, tmp_path / "log")


@pytest.mark.timeout(700)
@pytest.mark.parametrize("name", LARGE)
def test_a_large_image_costs_what_its_pixels_cost(name: str, server: ForkServer, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(LARGE[name]())
    bytes_a_pixel = 16 if name == "webp" else 8
    bounds = {"seconds": 10, "mib": bytes_a_pixel * 100e6 / 2**20 + 32}
    _run(server, "attempt", {"target": "image", "path": str(tmp_path / "image"), **bounds}, tmp_path / "log")


@pytest.mark.timeout(700)
def test_large_images_wait_for_each_other(server: ForkServer, tmp_path: Path) -> None:
    data = LARGE["webp"]()
    for name in ("a/1", "a/2", "b/1", "b/2"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / f"{name}.webp").write_bytes(data)
    _run(server, "attempt_together", {"folder": str(tmp_path / "images"), "mib": 3 * 1024 + 128}, tmp_path / "log")
