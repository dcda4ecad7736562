"""Where torch is not installed, an exported file gives what the model gives where it is, for files of every kind."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

import vitrail
from vitrail.exporting import Images, export_model, synthetic_photographs
from vitrail.predictor import Predictor
from vitrail.runtime import EngineOptions

ROOT = Path(__file__).resolve().parents[2]
WITHOUT = "import sys\nfor name in ('torch', 'safetensors', 'scipy', 'sklearn', 'onnx', 'huggingface_hub', 'jinja2'):\n"
WITHOUT += "    sys.modules[name] = None\n"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "model.onnx"
    predictor = Predictor("builtin:cifar100-conv", device="cpu", options=EngineOptions(engine="torch"))
    images = Images(encoded=synthetic_photographs(32), labels=None, source="made", fingerprint="", is_synthetic=True)
    export_model(predictor, out, images)
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of every format and kind, with names of all sorts, and two that are no images."""
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for number, encoded in enumerate(synthetic_photographs(6, seed=5)):
        (folder / f"photo {number}.jpg").write_bytes(encoded)
    picture = Image.open(folder / "photo 1.jpg")
    for suffix in ("png", "webp", "bmp", "gif", "tiff", "avif"):
        picture.save(folder / f"貓.{suffix}")
    picture.convert("L").save(folder / "grey.jpg")
    picture.convert("CMYK").save(folder / "cmyk.jpg")
    alpha = picture.convert("RGBA")
    alpha.putalpha(Image.fromarray(random.integers(0, 256, (picture.height, picture.width)).astype(np.uint8)))
    alpha.save(folder / "alpha.png")
    picture.quantize(16).save(folder / "palette.png")
    Image.fromarray(random.integers(0, 65536, (70, 90)).astype(np.uint16)).save(folder / "sixteen.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(folder / "turned.jpg", exif=exif)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    picture.save(folder / "odd profile.jpg", icc_profile=profile.tobytes())
    Image.fromarray(random.integers(0, 256, (5, 700, 3)).astype(np.uint8)).save(folder / "strip.png")
    Image.new("RGB", (1, 1), "red").save(folder / "one pixel.png")
    (folder / "notes.txt").write_text("no image")
    (folder / "cut.jpg").write_bytes((folder / "photo 0.jpg").read_bytes()[:3000])
    return folder


def without_torch(code: str, *words: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT + code, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_predict_gives_the_same(exported: Path, folder: Path) -> None:
    code = "from vitrail.cli import main; sys.exit(main(['predict', *sys.argv[1:], '--json']))"
    answer: dict[str, Any] = json.loads(without_torch(code, exported, folder))
    model = Predictor("builtin:cifar100-conv", device="cpu", options=EngineOptions(engine="torch"))
    paths = [one["path"] for one in answer["predictions"]]
    assert len(paths) == 21
    assert sorted(Path(one["path"]).name for one in answer["errors"]) == ["cut.jpg", "notes.txt"]
    for one, expected in zip(answer["predictions"], model(paths), strict=True):
        assert one["label"] == expected.label, one["path"]
        assert one["probability"] == pytest.approx(expected.probability, abs=1e-4), one["path"]
    assert answer["engine"]["reason"] == "an exported file"
    assert [p.label for p in vitrail.predict(exported, paths)] == [one["label"] for one in answer["predictions"]]


def test_the_example_gives_the_same_with_nothing_of_vitrail(exported: Path, folder: Path) -> None:
    code = "sys.modules['vitrail'] = None\nimport runpy\n"
    code += "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    plain = [
        path for path in sorted(folder.iterdir()) if path.name.startswith(("photo", "turned", "alpha", "grey", "strip"))
    ]
    lines = without_torch(code, ROOT / "examples" / "predict_onnx.py", exported, *plain).splitlines()
    assert len(lines) == len(plain) == 10
    for line, expected in zip(lines, vitrail.ExportedPredictor(exported)(plain), strict=True):
        _, label, probability = line.split("\t")
        assert label == expected.label
        assert float(probability) == pytest.approx(expected.probability, abs=1e-3)


@pytest.mark.parametrize("words", [["train", "digits"], ["predict", "builtin:cifar100", "x.png"], ["report", "."]])
def test_what_needs_torch_says_what_to_install(words: list[str], tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "x.png")
    code = WITHOUT + "from vitrail.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False, timeout=100, cwd=tmp_path
    )
    assert done.returncode == 2
    assert "vitrail[train]" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_many_images_are_predicted_into_a_folder(exported: Path, folder: Path, tmp_path: Path, form: str) -> None:
    code = "from vitrail.cli import main; sys.exit(main(['predict', *sys.argv[1:], '--json']))"
    answer = json.loads(without_torch(code, exported, folder, "-o", tmp_path / "out", "--to", form, "--top", "2"))
    assert answer["total"] == {"rows": 23, "errors": 2}
    assert answer["engine"]["engine"] == "onnx"
    (part,) = (tmp_path / "out").glob("part-*")
    if form == "csv":
        rows = list(csv.DictReader(io.StringIO(part.read_text())))
    else:
        rows = pytest.importorskip("pyarrow.parquet").read_table(part).to_pylist()
    good = [row for row in rows if not row["error"]]
    for row, expected in zip(good, vitrail.predict(exported, [folder / row["key"] for row in good]), strict=True):
        assert row["label"] == expected.label
        assert float(row["score"]) == pytest.approx(expected.probability, abs=1e-5)
