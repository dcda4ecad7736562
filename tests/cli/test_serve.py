"""What `vitrail serve` makes of its words before there is a server."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vitrail.api import exporting
from vitrail.cli import main, parsed, serve
from vitrail.errors import ConfigError, SaveError


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """Exports leave a file at once; those that were made."""
    made: list[Path] = []

    def export(_: str, out: Path, **__: Any) -> Any:
        out.write_bytes(b"")
        made.append(out)
        return SimpleNamespace(path=out)

    monkeypatch.setattr(exporting, "export", export)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return made


def test_an_exported_file_is_served_as_it_is(exports: list[Path], tmp_path: Path) -> None:
    (tmp_path / "a.onnx").touch()
    for name in ("a.onnx", "not-there.onnx"):  # of which the reader says that it is not there
        assert serve.exported(str(tmp_path / name)) == tmp_path / name
    assert exports == []


def test_another_model_is_exported_once_and_again_when_it_has_changed(exports: list[Path], tmp_path: Path) -> None:
    run = tmp_path / "my run"
    run.mkdir()
    (run / "best.safetensors").write_bytes(b"one")
    first = serve.exported(str(run))
    assert first.name == "my-run.onnx"
    assert serve.exported(f"{run}/") == first
    assert len(exports) == 1
    (run / "best.safetensors").write_bytes(b"another")
    assert serve.exported(str(run)) != first
    assert serve.exported("builtin:cifar100").name == "cifar100.onnx"
    assert serve.exported("builtin:cifar100") == exports[-1]
    assert len(exports) == 3
    serve.exported("google/vit")  # whether the hub has another one is not known
    serve.exported("google/vit")
    assert len(exports) == 5


def test_a_cache_that_cannot_be_written_says_what_to_do(exports: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise SaveError("full")

    monkeypatch.setattr(exporting, "export", fail)
    with pytest.raises(ConfigError, match="vitrail export builtin:cifar100 --out FILE.onnx"):
        serve.exported("builtin:cifar100")


@pytest.mark.parametrize(
    ("word", "expected"), [("20MB", 20_000_000), ("1.5k", 1500), ("2MiB", 2 << 20), ("7", 7), ("1 GB", 10**9)]
)
def test_sizes(word: str, expected: int) -> None:
    assert parsed(["serve", "m.onnx", "--max-body", word]).max_body == expected


@pytest.mark.parametrize(
    "words",
    [
        ["--max-body", "many"], ["--max-body", "0"], ["--timeout", "inf"], ["--timeout", "0"], ["--port", "70000"],
        ["--drain", "-1"], ["--queue-seconds", "nan"], ["--max-images", "0"], ["--token-file", "not-there"],
        ["--explain", "yes"], ["--host", "no.such.host.invalid"], ["--host", "1.2.3.4"],
    ],
)  # fmt: skip
def test_words_that_make_no_sense(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.onnx").touch()
    assert main(["serve", str(tmp_path / "a.onnx"), "--port", "0", *words]) == 2
    assert "Traceback" not in capsys.readouterr().err
