"""Downloads from a server on this machine that misbehaves in every way."""

import hashlib
import re
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from vitrail.data.sources import download as download_room
from vitrail.data.sources.download import ARCHIVES, Archive, fetch
from vitrail.errors import DataError

# The room's `download` is the function; this is the module of the same name behind it.
MODULE = sys.modules["vitrail.data.sources.download"]
CONTENT = np.random.default_rng(0).bytes(1_500_000)


@dataclass
class Script:
    """What the server does with its next requests; the last behaviour is repeated."""

    behaviours: list[str]
    content: bytes = CONTENT
    ranges: list[str] = field(default_factory=list)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    script: Script

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is part of the tests."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        script = self.server.script
        behaviour = script.behaviours.pop(0) if len(script.behaviours) > 1 else script.behaviours[0]
        wanted = self.headers.get("Range", "")
        script.ranges.append(wanted)
        if behaviour.isdigit():
            self.send_error(int(behaviour))
            return
        start = int(re.findall(r"\d+", wanted)[0]) if wanted and behaviour != "ignore range" else 0
        if start and start >= len(script.content):
            self.send_error(416)
            return
        body = script.content[start:]
        self.send_response(206 if start else 200)
        if start:
            shown = start + 7 if behaviour == "wrong range" else start
            self.send_header("Content-Range", f"bytes {shown}-{len(script.content) - 1}/{len(script.content)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if behaviour == "break off" else body)
        if behaviour == "break off":
            self.close_connection = True


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, "_PAUSE_S", 0.0)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def archive(server: Server, *behaviours: str, content: bytes = CONTENT) -> Archive:
    server.script = Script(list(behaviours), content)
    url = f"http://127.0.0.1:{server.server_address[1]}/data.tar.gz"
    return Archive("data.tar.gz", url, len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


def only_file(folder: Path) -> bool:
    return [path.name for path in folder.iterdir()] == ["data.tar.gz"]


def test_a_good_download(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitrail.progress.FIRST_SECONDS", 0.0)
    target = tmp_path / "new" / "data.tar.gz"
    fetch(archive(server, "good"), target, progress=True)
    assert target.read_bytes() == CONTENT
    assert only_file(target.parent)
    shown = capsys.readouterr()
    assert "data.tar.gz" in shown.err
    assert shown.out == ""


def test_a_file_that_is_there_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "data.tar.gz"
    target.write_bytes(CONTENT)
    fetch(archive(server, "500"), target)
    assert server.script.ranges == []


def test_a_wrong_file_is_replaced(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "data.tar.gz"
    target.write_bytes(CONTENT[:-1])
    fetch(archive(server, "good"), target)
    assert target.read_bytes() == CONTENT


def test_a_broken_download_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "data.tar.gz"
    fetch(archive(server, "break off", "break off", "good"), target)
    assert target.read_bytes() == CONTENT
    half, three_quarters = len(CONTENT) // 2, len(CONTENT) // 2 + len(CONTENT) // 4
    assert server.script.ranges == ["", f"bytes={half}-", f"bytes={three_quarters}-"]


def test_a_part_of_an_earlier_run_is_used(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".data.tar.gz.part").write_bytes(CONTENT[:1000])
    fetch(archive(server, "good"), tmp_path / "data.tar.gz")
    assert server.script.ranges == ["bytes=1000-"]
    assert only_file(tmp_path)


@pytest.mark.parametrize("part", [b"x" * 1000, b"x" * len(CONTENT), b"x" * (len(CONTENT) + 1)])
def test_a_part_of_another_file_is_thrown_away(server: Server, tmp_path: Path, part: bytes) -> None:
    (tmp_path / ".data.tar.gz.part").write_bytes(part)
    fetch(archive(server, "good"), tmp_path / "data.tar.gz")
    assert (tmp_path / "data.tar.gz").read_bytes() == CONTENT


def test_a_server_without_ranges_is_followed(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".data.tar.gz.part").write_bytes(CONTENT[:1000])
    fetch(archive(server, "ignore range"), tmp_path / "data.tar.gz")
    assert (tmp_path / "data.tar.gz").read_bytes() == CONTENT
    assert server.script.ranges == ["bytes=1000-"]


def test_a_login_page_in_place_of_the_file_does_not_stand_in_the_way_later(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        fetch(archive(server, "good", content=b"<html>please log in</html>"), tmp_path / "data.tar.gz")
    fetch(archive(server, "good"), tmp_path / "data.tar.gz")
    assert (tmp_path / "data.tar.gz").read_bytes() == CONTENT


@pytest.mark.parametrize("code", ["429", "500", "503"])
def test_passing_failures_are_tried_again(server: Server, tmp_path: Path, code: str) -> None:
    fetch(archive(server, code, code, "good"), tmp_path / "data.tar.gz")
    assert only_file(tmp_path)


@pytest.mark.parametrize(
    ("behaviour", "content", "words"),
    [
        ("good", CONTENT[:-1] + b"!", "not the official file"),
        ("good", CONTENT + b"more", "not the official file"),
        ("good", b"<html>please log in</html>", r"HTTP status 416"),
        ("break off", CONTENT[:100], "connection ended"),
        ("404", CONTENT, r"HTTP status 404"),
        ("503", CONTENT, r"HTTP status 503"),
        ("416", CONTENT, r"HTTP status 416"),
    ],
)
def test_what_is_not_the_file_never_gets_its_name(
    server: Server, tmp_path: Path, behaviour: str, content: bytes, words: str
) -> None:
    with pytest.raises(DataError, match=words):
        fetch(archive(server, behaviour, content=content), tmp_path / "data.tar.gz")
    assert not (tmp_path / "data.tar.gz").exists()
    tries = len(server.script.ranges)
    assert tries == (1 if behaviour == "404" or "official" in words else MODULE._ATTEMPTS)


def test_a_part_that_was_not_asked_for(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".data.tar.gz.part").write_bytes(CONTENT[:1000])
    with pytest.raises(DataError, match="not asked for"):
        fetch(archive(server, "wrong range"), tmp_path / "data.tar.gz")


def test_no_server(tmp_path: Path) -> None:
    gone = Archive("data.tar.gz", "http://127.0.0.1:9/data.tar.gz", 10, "0" * 64)
    with pytest.raises(DataError, match="could not be downloaded(.|\n)*refused(.|\n)*put the file at"):
        fetch(gone, tmp_path / "data.tar.gz")
    assert list(tmp_path.iterdir()) == []


def test_every_address_is_encrypted_and_has_a_checksum() -> None:
    archives = [item for items in ARCHIVES.values() for item in items]
    assert len(archives) == 6
    for item in archives:
        assert item.url.startswith("https://")
        assert item.url.endswith("/" + item.file)
        assert re.fullmatch("[0-9a-f]{64}", item.sha256)
        assert item.num_bytes > 1000
    assert len({item.sha256 for item in archives}) == 6


def test_download_names_the_sets_it_knows(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cifar10, cifar100, fashion-mnist"):
        download_room("imagenet", tmp_path)


def test_download_puts_every_file_into_the_folder_of_the_set(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = archive(server, "good")
    second = Archive("other.gz", first.url, first.num_bytes, first.sha256)
    monkeypatch.setitem(ARCHIVES, "cifar10", (first, second))
    folder = download_room("cifar10", tmp_path)
    assert folder == tmp_path / "cifar10"
    assert sorted(path.name for path in folder.iterdir()) == ["data.tar.gz", "other.gz"]


def test_a_link_in_place_of_the_part_is_not_written_through(server: Server, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"precious")
    (tmp_path / ".data.tar.gz.part").symlink_to(tmp_path / "other")
    with pytest.raises(DataError, match="a link"):
        fetch(archive(server), tmp_path / "data.tar.gz")
    assert (tmp_path / "other").read_bytes() == b"precious"
