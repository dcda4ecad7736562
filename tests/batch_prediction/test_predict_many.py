"""Every image has one row, whoever was killed or raced on the way: `vitrail predict -o`."""

import csv
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vitrail
from tests.support.folders import write_tar
from tests.support.images import encode, noise
from tests.support.random_vit import random_vit
from tests.support.range_server import RangeServer
from vitrail import batch_prediction, fsio
from vitrail.batch_prediction import Job, do_parts, find_units
from vitrail.cli import main
from vitrail.data.streaming.remote import Patience
from vitrail.predictor import BatchPredictor
from vitrail.selftest.fork_server import ForkServer

pytest.importorskip("pyarrow")
JOB = "tests.support.jobs:predict_and_die"
TARS, EACH = 3, 5
BAD = ("00002", 2)
"""The row of the unreadable image of the first tar."""


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with ForkServer() as running:
        yield running


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    vit = random_vit()
    preprocessing = vitrail.Preprocessing(image_size=(16, 16), decode_size=(16, 16))
    vitrail.save(path, vit, vitrail.Card(geometry=vit.config, preprocessing=preprocessing, classes=tuple("abcde")))
    return path


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tars of five samples, of which one cannot be read."""
    folder = tmp_path_factory.mktemp("shards")
    for number in range(TARS):
        files: dict[str, bytes] = {}
        for place in range(EACH):
            files[f"{place:05d}.png"] = encode(noise(20, 24, seed=number * EACH + place), "PNG")
            files[f"{place:05d}.cls"] = b"3"
        if number == 0:
            files[f"{BAD[0]}.png"] = b"no image"
        write_tar(folder / f"shard-{number}.tar", files)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, model: Path, shards: Path) -> Path:
    """The predictions of one call that nothing happened to."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert main(["predict", str(model), str(shards), "-o", str(out), "--what", "probabilities"]) == 0
    return out


def rows_of(out: Path) -> list[dict[str, Any]]:
    from pyarrow import parquet

    return [row for part in sorted(out.glob("part-*.parquet")) for row in parquet.read_table(part).to_pylist()]


def parts_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("part-*")}


def words(model: Path, shards: Path, out: Path) -> list[str]:
    return [str(model), str(shards), "-o", str(out), "--what", "probabilities"]


def test_each_image_has_a_row_with_the_answer_of_the_model(whole: Path, model: Path) -> None:
    rows, predictor = rows_of(whole), vitrail.Predictor(model)
    assert [(row["shard"], row["key"], row["row"]) for row in rows] == [
        (f"shard-{number}.tar", f"{place:05d}", place) for number in range(TARS) for place in range(EACH)
    ]
    for number, row in enumerate(rows):
        if (row["key"], number) == BAD:
            assert "not an image" in row["error"]
            assert (row["label"], row["score"], row["probabilities"]) == (None, None, None)
        else:
            (answer,) = predictor(Image.fromarray(noise(20, 24, seed=number)))
            assert (row["label"], row["error"]) == (answer.label, None)
            assert row["score"] == pytest.approx(answer.probability, abs=1e-5)
            assert sum(row["probabilities"]) == pytest.approx(1, abs=1e-5)


def test_the_manifest_and_the_footers_say_what_made_them(whole: Path, model: Path) -> None:
    from pyarrow import parquet

    from vitrail.tensor_file import tensors_sha256

    manifest = json.loads((whole / "_manifest.json").read_text())
    assert (manifest["rows"], manifest["errors"]) == (TARS * EACH, 1)
    assert "views" not in manifest["job"]
    assert [part["rows"] for part in manifest["parts"]] == [EACH] * TARS
    assert [part["errors"] for part in manifest["parts"]] == [1, 0, 0]
    footer = json.loads(parquet.read_metadata(whole / manifest["parts"][1]["name"]).metadata[b"vitrail"])
    assert footer["model_sha256"] == tensors_sha256(vitrail.load(model)[0].state_dict())
    assert {name: footer[name] for name in ("engine", "precision", "rows", "errors", "classes", "vitrail")} == {
        "engine": "onnx",
        "precision": "fp32",
        "rows": EACH,
        "errors": 0,
        "classes": list("abcde"),
        "vitrail": vitrail.__version__,
    }
    assert footer["rows_sha256"] == manifest["parts"][1]["rows_sha256"]


def check_dies(server: ForkServer, at: int, after: bool, given: tuple[Path, Path, Path], out: Path) -> None:
    """A worker is killed at an operation; the next one leaves what one alone would have left."""
    model, shards, whole = given
    arguments = {"words": words(model, shards, out), "after": after}
    assert server.run(JOB, {**arguments, "at": at}).statuses == [9]
    assert main(["predict", *words(model, shards, out)]) == 0
    assert parts_of(out) == parts_of(whole)
    assert (out / "_manifest.json").read_bytes() == (whole / "_manifest.json").read_bytes()
    assert [path.name for path in out.iterdir() if ".tmp-" in path.name and "part" in path.name] == []


@pytest.fixture(scope="module")
def num_operations(
    server: ForkServer, model: Path, shards: Path, whole: Path, tmp_path_factory: pytest.TempPathFactory
) -> int:
    """Of a call that finds the model translated, as `whole` has left it."""
    assert whole.exists()
    out = tmp_path_factory.mktemp("count") / "out"
    ended = server.run(JOB, {"words": words(model, shards, out), "at": -1, "after": False})
    assert ended.statuses == [0]
    return int((out / "operations").read_text())


@pytest.mark.parametrize("share", [0.1, 0.4, 0.7, 0.97])
def test_a_killed_worker_loses_nothing(
    share: float, num_operations: int, server: ForkServer, model: Path, shards: Path, whole: Path, tmp_path: Path
) -> None:
    check_dies(server, int(share * num_operations), False, (model, shards, whole), tmp_path / "out")


@pytest.mark.slow
def test_a_worker_killed_anywhere_loses_nothing(
    num_operations: int, server: ForkServer, model: Path, shards: Path, whole: Path, tmp_path: Path
) -> None:
    for at in range(num_operations):
        check_dies(server, at, at % 2 == 1, (model, shards, whole), tmp_path / f"out-{at}")


def test_two_workers_that_race_leave_each_row_once(model: Path, shards: Path, whole: Path, tmp_path: Path) -> None:
    out, raced = tmp_path / "out", list[bool]()

    class Raced(fsio.FileSystem):
        """Before the first part of this worker gets its name, another one does everything and tidies up."""

        def replace(self, source: Path, target: Path) -> None:
            if target.name.startswith("part-") and not raced:
                raced.append(True)
                with fsio.use_file_system(fsio.FileSystem()):
                    assert main(["predict", *words(model, shards, out)]) == 0
            super().replace(source, target)

    with fsio.use_file_system(Raced()):
        assert main(["predict", *words(model, shards, out)]) == 0
    assert raced
    assert parts_of(out) == parts_of(whole)
    assert rows_of(out) == rows_of(whole)


def test_shares_and_processes_give_the_same_parts(
    server: ForkServer, model: Path, shards: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "array"
    for share, is_complete in (("2/2", False), ("1/2", True)):
        assert main(["predict", *words(model, shards, out), "--part", share, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["is_complete"] == is_complete
        assert (out / "_manifest.json").exists() == is_complete
    assert parts_of(out) == parts_of(whole)
    arguments = {"words": words(model, shards, tmp_path / "two"), "at": -2, "after": False}
    assert server.run(JOB, arguments, ranks=2).statuses == [0, 0]
    assert parts_of(tmp_path / "two") == parts_of(whole)
    assert (tmp_path / "two" / "_manifest.json").exists()


@pytest.mark.parametrize("change", ["model", "input", "options", "parts"])
def test_a_folder_of_another_job_is_refused(
    change: str, model: Path, shards: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, other = tmp_path / "out", tmp_path / "shards"
    shutil.copytree(whole, out)
    shutil.copytree(shards, other)
    given = words(model, shards, out)
    if change == "model":
        vit, card = vitrail.load(model)
        vit.head.bias.data += 1
        vitrail.save(tmp_path / "other.safetensors", vit, card)
        given[0] = str(tmp_path / "other.safetensors")
    elif change == "input":
        write_tar(other / "shard-3.tar", {"0.png": encode(noise(8, 8), "PNG")})
        given[1] = str(other)
    elif change == "options":
        given[-1] = "labels"
    else:
        (out / "_job.json").unlink()
    before = parts_of(out)
    assert main(["predict", *given]) == 2
    message = capsys.readouterr().err
    said = {"model": "another model", "input": "another input", "options": "another --what", "parts": "no job here"}
    assert said[change] in message
    assert "another folder with -o" in message
    assert parts_of(out) == before


def test_parts_that_are_there_are_kept_and_damaged_ones_made_again(
    model: Path, shards: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    first, second, _ = sorted(out.glob("part-*"))
    kept = first.stat().st_mtime_ns
    second.write_bytes(second.read_bytes()[:-50])
    assert main(["predict", *words(model, shards, out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parts"] == {"written": 1, "kept": 2, "of": 3}
    assert first.stat().st_mtime_ns == kept
    assert parts_of(out) == parts_of(whole)


def test_csv(model: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    given = ["predict", str(model), str(shards), "-o", str(out), "--to", "csv", "--top", "2", "--json"]
    assert main(given) == 0
    rows = [row for part in sorted(out.glob("*.csv")) for row in csv.DictReader(io.StringIO(part.read_text()))]
    assert list(rows[0]) == ["key", "shard", "row", "label", "score", "label_2", "score_2", "error"]
    assert [row["row"] for row in rows] == [str(place) for _ in range(TARS) for place in range(EACH)]
    assert [row["label"] == "" for row in rows] == [bool(row["error"]) for row in rows]
    assert all(float(row["score"]) >= float(row["score_2"]) for row in rows if not row["error"])
    assert json.loads(capsys.readouterr().out)["total"] == {"rows": TARS * EACH, "errors": 1}
    assert main(given) == 0
    assert json.loads(capsys.readouterr().out)["parts"] == {"written": 0, "kept": TARS, "of": TARS}


def test_a_damaged_shard_stops_nobody_else(
    model: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, out = tmp_path / "shards", tmp_path / "out"
    shutil.copytree(shards, broken)
    content = (broken / "shard-1.tar").read_bytes()
    (broken / "shard-1.tar").write_bytes(content[:2000])
    assert main(["predict", *words(model, broken, out)]) == 2
    message = capsys.readouterr().err
    assert "shard-1.tar: not a readable tar file (" in message
    assert f"written: {TARS - 1} of {TARS}." in message
    assert len(parts_of(out)) == TARS - 1
    assert not (out / "_manifest.json").exists()


def test_a_server_that_breaks_off_is_asked_again(
    model: Path,
    shards: Path,
    whole: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("fsspec")
    monkeypatch.setattr(batch_prediction.shards, "_PATIENCE", Patience(tries=3, first_s=0.001, longest_s=0.002))
    files = {f"/shard-{number}.tar": (shards / f"shard-{number}.tar").read_bytes() for number in range(TARS)}
    out = tmp_path / "out"

    is_down = True

    def fault(path: str, start: int, attempt: int) -> str | None:
        if is_down and (start or attempt):
            return "503"
        return "cut" if start == 0 and attempt else None  # the first request is for the size

    with RangeServer(files, fault) as server:
        given = words(model, Path("shards"), out)
        given[1] = f"{server.url}/shard-{{0..{TARS - 1}}}.tar"
        assert main(["predict", *given]) == 2
        message = capsys.readouterr().err
        assert f"fetched; parts that are written: 0 of {TARS}." in message
        assert "shard-0.tar: could not be read (HTTP status 503, after 3 tries" in message
        assert "The same command goes on." in message
        is_down = False
        assert main(["predict", *given]) == 0
        assert len([path for path, start in server.asked if start]) == TARS
    found, expected = ([{**row, "shard": ""} for row in rows_of(folder)] for folder in (out, whole))
    assert found == expected


@pytest.mark.parametrize("given", ["folder", "tar", "s3://bucket/s-{0..9}.tar"])
def test_shards_need_o(given: str, model: Path, shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = {"folder": str(shards), "tar": str(shards / "shard-1.tar")}
    assert main(["predict", str(model), words.get(given, given)]) == 2
    assert "Add -o DIR" in capsys.readouterr().err


def test_a_job_without_an_image_fails(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("no image")
    out = tmp_path / "out"
    given = ["predict", str(model), str(tmp_path / "a.txt"), str(tmp_path / "b.txt"), "-o", str(out)]
    for _ in range(2):
        assert main(given) == 2
        assert "None of the 2 images could be read" in capsys.readouterr().err
    assert [bool(row["error"]) for row in rows_of(out)] == [True, True]


def test_what_interrupts_leaves_whole_parts(model: Path, shards: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predictor = BatchPredictor(model, what="probabilities")
    job = Job(
        out, find_units([str(shards)], out), {"vitrail": vitrail.__version__, **predictor.loaded.about}, "parquet"
    )

    def interrupt(rows: int) -> None:
        if rows > EACH:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        do_parts(job, job.parts, predictor, on_batch=interrupt)
    first = job.parts[0].path
    assert [path.name for path in out.iterdir() if path.name != "_job.json"] == [first.name]
    assert first.read_bytes() == (whole / first.name).read_bytes()


def test_the_mean_over_mirror_images(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = tmp_path / "images", tmp_path / "out"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(encode(noise(16, 16, seed=number), "PNG"))
    given = ["predict", str(model), str(folder), "-o", str(out)]
    assert main([*given, "--views", "mirror", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["views"] == "mirror"
    assert json.loads((out / "_job.json").read_text())["views"] == "mirror"
    expected = vitrail.Predictor(model)(sorted(folder.iterdir()), views="mirror")
    for row, answer in zip(rows_of(out), expected, strict=True):
        assert (row["label"], row["score"]) == (answer.label, pytest.approx(answer.probability, abs=1e-5))
    assert main(given) == 2
    assert "another --views" in capsys.readouterr().err


def test_embeddings_are_those_of_features(model: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "images", tmp_path / "out"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(encode(noise(16, 16, seed=number), "PNG"))
    assert main(["predict", str(model), str(folder), "-o", str(out), "--what", "embedding"]) == 0
    found = np.array([row["embedding"] for row in rows_of(out)])
    expected = vitrail.features(model, folder)
    assert found == pytest.approx(expected, rel=2e-3, abs=1e-3)
    from pyarrow import parquet

    (part,) = out.glob("part-*")
    assert str(parquet.read_schema(part).field("embedding").type) == "fixed_size_list<element: halffloat>[32]"
