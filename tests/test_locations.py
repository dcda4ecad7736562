"""Where things of the user are: what the environment says, and what it says wrong."""

import os
from pathlib import Path

import pytest

from vitrail import fsio
from vitrail.cli import main
from vitrail.errors import ConfigError, SaveError
from vitrail.locations import data_root, decoded_cache, engine_cache, linear_kernels_cache


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("VITRAIL_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_what_says_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert data_root() == tmp_path / ".cache" / "vitrail" / "data"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which the standard says to pass over
    assert decoded_cache() == tmp_path / ".cache" / "vitrail" / "decoded"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert data_root() == tmp_path / "caches" / "vitrail" / "data"
    monkeypatch.setenv("VITRAIL_DATA", "~/sets")
    assert data_root() == tmp_path / "sets"
    assert data_root(tmp_path / "own") == tmp_path / "own"
    monkeypatch.setenv("VITRAIL_DATA", "~nobody-of-this-name/sets")
    assert data_root() == Path("~nobody-of-this-name/sets")


@pytest.mark.parametrize("home", ["", None])
def test_no_home(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: str | None) -> None:
    monkeypatch.delenv("HOME") if home is None else monkeypatch.setenv("HOME", home)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as for a user without an entry
    with pytest.raises(ConfigError, match="Set HOME, or --data-root or VITRAIL_DATA"):
        data_root()
    with pytest.raises(ConfigError, match="Set HOME, or XDG_CACHE_HOME"):
        decoded_cache()
    # What is only faster with a cache goes on without one.
    for folder in (engine_cache(), linear_kernels_cache()):
        assert not (folder / "a.json").is_file()
        with pytest.raises(SaveError):
            fsio.write_json(folder / "a.json", {})
    assert main(["data", "info", "cifar10"]) == 2
    assert "The folder of your caches is not known." in capsys.readouterr().err


@pytest.mark.parametrize("name", ["VITRAIL_DATA", "XDG_CACHE_HOME", "HOME"])
def test_a_file_in_place_of_a_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv(name, str(tmp_path / "file"))
    for action in ("info", "check"):
        assert main(["data", action, "cifar10"]) == 2
    told = capsys.readouterr().err
    assert str(tmp_path / "file") in told
    assert "Traceback" not in told
    with pytest.raises(SaveError):
        fsio.write_json(engine_cache() / "a.json", {}) if name != "VITRAIL_DATA" else fsio.write_json(
            tmp_path / "file" / "a.json", {}
        )
