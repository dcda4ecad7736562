"""Text of strangers (names of files, classes, columns and tensors, a server's answer) forges no line on the terminal.

Every command gets names with a line break, a carriage return, a colour, a change of direction and bytes that are no
text. What it prints holds printable characters and line breaks of our own alone, and is short however long a name is.
"""

import json
import os
import re
import socket
import subprocess
import threading
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import vitrail
from tests.support.folders import write_parquet
from tests.support.images import encode, noise
from vitrail import terminal
from vitrail.cli import main
from vitrail.cli.answer import table
from vitrail.data.sources.download import ARCHIVES, Archive

FORGED = "vitrail: all is well"
NAME = f"x\n{FORGED}\r{FORGED}\x1b[31m\u202e gnp"
BYTES = NAME + "\udcff"  # in a file name: a byte that is no UTF-8
LONG = NAME + "y" * 20_000_000
QUITE_LONG = NAME + "y" * 2_000_000  # the description of a model file is limited
CLASS = QUITE_LONG[:9000]  # its names of classes more so
TINY = [
    "--model.num-hidden-layers",
    "1",
    "--model.hidden-size",
    "32",
    "--model.num-attention-heads",
    "2",
    "--epochs",
    "1",
]


def clean(capsys: pytest.CaptureFixture[str], *words: str, statuses: tuple[int, ...] = (0,)) -> tuple[str, str]:
    """Run a command; what it prints is ours and short. Returns standard output and standard error."""
    capsys.readouterr()
    found = main(list(words))
    out, err = capsys.readouterr()
    assert found in statuses, err[-3000:]
    assert "Traceback" not in err
    bars = re.sub(r"\r|\x1b\[A", "\n", err)  # how tqdm goes back to the start of its bar
    for text in (out, bars):
        assert len(text) < 60_000
        strange = {c for c in text if not c.isprintable() and c != "\n" and unicodedata.category(c) != "Zs"}
        assert not strange
        assert not [line for line in text.split("\n") if line.startswith(FORGED)]
    return out, err


def _image(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(noise(8, 8, seed), "PNG"))
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes with such names, and a file in each that is no image."""
    root = tmp_path_factory.mktemp("photos")
    for label in (f"a{BYTES}", f"b{NAME}"):
        for i in range(8):
            _image(root / label / f"{i}{BYTES}.png", i)
        (root / label / f"broken{BYTES}.png").write_text("hello")
    return root


@pytest.fixture(scope="module")
def hostile_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file whose own description holds such texts everywhere."""
    config = vitrail.ViTConfig(
        image_size=8, patch_size=4, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_labels=3
    )
    model, card = vitrail.load("builtin:cifar100", num_labels=3)
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    card = replace(
        card,
        geometry=config,
        classes=(NAME, CLASS, "c"),
        preprocessing=card.preprocessing.resized((8, 8)),
        metrics={NAME: 1.0, QUITE_LONG: QUITE_LONG},
        provenance={"source": QUITE_LONG, "commit": NAME, "notes": [NAME, CLASS], "defaulted": [NAME]},
    )
    model = vitrail.ViT(config)
    vitrail.save(path, model, card)
    return path


def test_predict_names_files(capsys: pytest.CaptureFixture[str], photos: Path) -> None:
    out, _ = clean(capsys, "predict", "builtin:cifar100", str(photos), "--top", "2")
    assert out.count("unreadable:") == 2
    assert "x\\nvitrail: all is well\\r" in out


def test_a_model_names_its_classes(capsys: pytest.CaptureFixture[str], photos: Path, hostile_model: Path) -> None:
    clean(capsys, "predict", str(hostile_model), str(photos))
    out, _ = clean(capsys, "inspect", str(hostile_model))
    assert "x\\nvitrail: all is well" in out
    clean(capsys, "eval", str(hostile_model), "--data", str(photos), statuses=(2,))
    clean(capsys, "finetune", str(hostile_model), "--data", str(photos), "--head", "keep", statuses=(2,))


def test_explain_shows_names(
    capsys: pytest.CaptureFixture[str], photos: Path, hostile_model: Path, tmp_path: Path
) -> None:
    words = ("explain", str(hostile_model), str(photos), "--method", "grad-cam")
    out, _ = clean(capsys, *words, "--class", NAME, "--against", CLASS, "--out", str(tmp_path / NAME.replace("/", "")))
    assert out.count("unreadable:") == 2
    assert "x\\nvitrail: all is well" in out
    clean(capsys, *words, "--class", NAME[:-1], "--out", str(tmp_path / "b"), statuses=(2,))


def test_json_keeps_whole_names(capsys: pytest.CaptureFixture[str], photos: Path, hostile_model: Path) -> None:
    capsys.readouterr()
    assert main(["predict", str(hostile_model), str(photos), "--json"]) == 0
    out = capsys.readouterr().out
    assert out.isascii()
    assert out.count("\n") == 1
    labels = {ranked["label"] for p in json.loads(out)["predictions"] for ranked in p["top"]}
    assert labels == {NAME, CLASS, "c"}


def test_training_names_classes_files_and_the_run(
    capsys: pytest.CaptureFixture[str], photos: Path, tmp_path: Path
) -> None:
    run = tmp_path / NAME.replace("/", "")
    words = ["train", "digits", "--data", str(photos), "--channels", "RGB", "--image-size", "8", *TINY]
    out, err = clean(capsys, *words, "--run", str(run))
    assert "skipped in training" in err
    (line,) = [line for line in out.splitlines() if "vitrail predict" in line]
    pasted = subprocess.run(
        ["bash", "-c", "printf '%s\\0' " + line.split("predict ", 1)[1]], capture_output=True, check=True
    )
    assert os.fsdecode(pasted.stdout.split(b"\0")[0]) == str(run)
    clean(capsys, *words, "--run", str(run), statuses=(2,))  # holds a run already
    assert "  vitrail report " in out
    assert "x\\nvitrail" in clean(capsys, "report", str(run))[0]
    clean(capsys, "eval", str(run), "--data", str(photos), "--split", "all")


def test_one_long_cell_does_not_make_the_table_wide() -> None:
    assert max(map(len, table(("name", LONG), [(LONG, 1), ("b", 2)]))) < 3000


def test_data_sets_name_classes_and_files(capsys: pytest.CaptureFixture[str], photos: Path) -> None:
    assert "x\\nvitrail" in clean(capsys, "data", "info", str(photos))[0]
    assert "x\\nvitrail" in clean(capsys, "data", "check", str(photos), statuses=(2,))[0]


@pytest.mark.parametrize("label", [NAME, LONG], ids=["strange", "long"])
def test_tables_name_columns_and_labels(capsys: pytest.CaptureFixture[str], tmp_path: Path, label: str) -> None:
    _image(tmp_path / "a.png")
    quoted = '"' + label.replace("\r", "") + '"'
    for name, text in {
        "columns": f"path,{quoted}\na.png,1\n",
        "labels": f"path,label,split\na.png,{quoted},train\na.png,b,train\na.png,c{quoted},test\n",
        "paths": f"path,label\n{quoted},1\n",
        "splits": f"path,label,split\na.png,a,{quoted}\n",
    }.items():
        table = tmp_path / f"{name}.csv"
        table.write_text(text, encoding="utf-8")
        for action in ("info", "check"):
            clean(capsys, "data", action, str(table), statuses=(0, 2))


@pytest.mark.parametrize("label", [NAME, QUITE_LONG], ids=["strange", "long"])
def test_parquet_names_columns_and_labels(capsys: pytest.CaptureFixture[str], tmp_path: Path, label: str) -> None:
    images = [encode(noise(8, 8, i), "PNG") for i in range(4)]
    write_parquet(tmp_path / "columns.parquet", images, [0, 1, 0, 1], label=label)
    write_parquet(tmp_path / "images.parquet", images, [0, 1, 0, 1], image=label)
    write_parquet(tmp_path / "labels.parquet", images, [label, "b", label, "b"])
    write_parquet(tmp_path / "names.parquet", images, [0, 1, 0, 1], names=[label, "b"])
    for name in ("columns", "images", "labels", "names"):
        clean(capsys, "data", "info", str(tmp_path / f"{name}.parquet"), statuses=(0, 2))


@pytest.mark.parametrize("name", [NAME, QUITE_LONG], ids=["strange", "long"])
def test_foreign_weights_name_tensors(capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str) -> None:
    save_file({name: torch.zeros(2), "b": torch.zeros(2)}, tmp_path / "a.safetensors", metadata={"format": name})
    tensors = dict(vitrail.load("builtin:cifar100")[0].state_dict())
    save_file({**tensors, name: torch.zeros(2)}, tmp_path / "b.safetensors")
    for file in ("a", "b"):
        clean(capsys, "inspect", str(tmp_path / f"{file}.safetensors"), statuses=(2,))
        clean(
            capsys,
            "convert",
            str(tmp_path / f"{file}.safetensors"),
            str(tmp_path / "out"),
            "--to",
            "timm",
            statuses=(2,),
        )


@pytest.mark.parametrize(
    "words",
    [
        [NAME],
        ["train", NAME],
        ["train", "digits", f"--{NAME}", "1"],
        ["train", "digits", "--lr", NAME],
        ["train", "digits", f"--optim.{NAME}", "1"],
        ["train", "--from", f"/nowhere/{NAME}"],
        ["train", "digits", "--data", NAME],
        ["predict", NAME, NAME],
        ["predict", "builtin:cifar100", BYTES],
        ["predict", "m", "p", "--batch-size", NAME],
        ["inspect", NAME],
        ["inspect", f"builtin:{NAME}"],
        ["data", NAME, "x"],
        ["data", "info", f"hf:{NAME}"],
        ["data", "download", NAME],
        ["bench", NAME],
        ["recipes", NAME],
    ],
    ids=str,
)
def test_arguments(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    clean(capsys, *words, statuses=(2,))


def test_settings_of_an_earlier_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name in (NAME, LONG):
        (tmp_path / "config.json").write_text(json.dumps({name: 1}))
        clean(capsys, "train", "--from", str(tmp_path / "config.json"), statuses=(2,))


def test_a_fault_of_ours(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(args: object) -> None:
        raise RuntimeError(LONG + NAME * 10_000)

    monkeypatch.setattr("vitrail.cli.recipes.run", broken)
    assert main(["recipes"]) == 1
    err = capsys.readouterr().err
    assert len(err) < 60_000
    assert "\x1b" not in err
    assert "\r" not in err
    assert not [line for line in err.split("\n") if line.startswith(FORGED)]


@pytest.fixture
def rude_server() -> Iterator[str]:
    """It answers every request with a status of its own wording."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                connection.sendall(f"HTTP/1.1 404 \x1b[31m{FORGED}\r\nContent-Length: 0\r\n\r\n".encode())

    threading.Thread(target=serve, daemon=True).start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()


def test_a_servers_answer(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, rude_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ARCHIVES, "cifar10", (Archive("x.gz", rude_server + "x.gz", 10, "0"),))
    _, err = clean(capsys, "data", "download", "cifar10", "--data-root", str(tmp_path), statuses=(2,))
    assert "404 (\\x1b[31m" in err


def test_letters_of_any_language_are_aligned_and_readable(capsys: pytest.CaptureFixture[str]) -> None:
    lines = table(("class", "images"), [("\u732b", 3), ("dog", 12), ("e\u0301", 1)])
    assert [str(line) for line in lines[2:]] == [
        "\u732b" + " " * 10 + "3",
        "dog" + " " * 8 + "12",
        "e\u0301" + " " * 11 + "1",
    ]
    terminal.answer_json({"label": "\u72d7", "forged": "a\u202eb\n\u2028\x9b"})
    printed = capsys.readouterr().out
    assert "\u72d7" in printed
    assert printed.rstrip("\n").isprintable()
    assert json.loads(printed) == {"label": "\u72d7", "forged": "a\u202eb\n\u2028\x9b"}
