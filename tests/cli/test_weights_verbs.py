"""inspect, convert and finetune as a user types them, on files of every family, damaged and hostile ones among them."""

import io
import json
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from PIL import Image

import tests.support.torchvision_operators  # noqa: F401  (before transformers and timm)
import vitrail
from tests.support.random_vit import random_vit
from vitrail import recipes, training, weights
from vitrail.cli import main
from vitrail.config import InitConfig, Preprocessing, RunConfig
from vitrail.errors import RunError
from vitrail.weights import Card, builtin_names, verify
from vitrail.weights.families import dinov2, google, torchvision

GEOMETRY: dict[str, Any] = {"hidden_size": 64, "num_attention_heads": 1, "layer_norm_eps": 1e-6}


def vitrail_json(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    capsys.readouterr()
    status = main([*args, "--json"])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    return json.loads(captured.out)


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """What standard error says: a few lines, no traceback, exit status 2."""
    capsys.readouterr()
    assert main([*args]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    assert captured.err.count("\n") <= 4, captured.err
    return captured.err


def saved(folder: Path, to: str, **changes: Any) -> Path:
    model = random_vit(**{**GEOMETRY, **changes})
    card = Card(
        geometry=model.config,
        classes=("ant", "bee", "cat", "dog", "eel")[: model.config.num_labels],
        preprocessing=Preprocessing(image_size=(16, 16), decode_size=(16, 16)),
    )
    target = folder / ("model.safetensors" if to == "vitrail" else to)
    weights.write(target, model, card, to)  # type: ignore[arg-type]
    return target


def a_pickled_bin(folder: Path) -> Path:
    source = saved(folder, "huggingface")
    tensors = safetensors.torch.load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    torch.save(tensors, source / "pytorch_model.bin")
    return source


def shards(folder: Path) -> Path:
    source = saved(folder, "huggingface")
    tensors = safetensors.torch.load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    names, where = sorted(tensors), {}
    for part, chosen in enumerate((names[::2], names[1::2])):
        file = f"model-{part + 1:05d}-of-00002.safetensors"
        safetensors.torch.save_file({n: tensors[n] for n in chosen}, source / file, {"format": "pt"})
        where |= dict.fromkeys(chosen, file)
    (source / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return source


def a_timm_file(folder: Path) -> Path:
    return saved(folder, "timm") / "model.safetensors"


def google_npz(folder: Path) -> Path:
    named = google.table(1, linen=False, big_vision=False).write(random_vit(**GEOMETRY).state_dict())
    np.savez(folder / "m.npz", **{name: tensor.numpy() for name, tensor in named.items()})
    return folder / "m.npz"


def a_torchvision_file(folder: Path) -> Path:
    torch.save(torchvision.TABLE.write(random_vit(**GEOMETRY).state_dict()), folder / "vit.pth")
    return folder / "vit.pth"


def a_dinov2_file(folder: Path) -> Path:
    model = random_vit(**GEOMETRY, layer_scale=0.3, use_mask_token=True, num_labels=0)
    torch.save(dinov2.META.write(model.state_dict()), folder / "dinov2.pth")
    return folder / "dinov2.pth"


HONEST: dict[str, tuple[Callable[[Path], Path], str]] = {
    "vitrail": (lambda folder: saved(folder, "vitrail"), "vitrail"),
    "transformers": (lambda folder: saved(folder, "huggingface"), "Hugging Face ViT"),
    "transformers, pickled": (a_pickled_bin, "Hugging Face ViT"),
    "transformers, shards": (shards, "Hugging Face ViT"),
    "transformers, DINOv2": (lambda folder: saved(folder, "huggingface", num_registers=2), "DINOv2, Hugging Face"),
    "timm": (lambda folder: saved(folder, "timm", num_registers=2), "timm"),
    "timm, a file": (a_timm_file, "timm"),
    "Google": (google_npz, "Google"),
    "torchvision": (a_torchvision_file, "torchvision"),
    "Meta": (a_dinov2_file, "DINOv2, Meta"),
}


@pytest.mark.parametrize(("make", "family"), HONEST.values(), ids=HONEST)
def test_inspect_says_whose_it_is(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, make: Callable[[Path], Path], family: str
) -> None:
    source = make(tmp_path)
    told = vitrail_json(capsys, "inspect", str(source))
    assert told["family"].startswith(family)
    assert told["geometry"]["hidden_size"] == 64
    assert told["num_parameters"] > 10_000
    assert {"classes", "preprocessing", "provenance"} <= told.keys()
    assert main(["inspect", str(source)]) == 0
    assert "width 64, 2 layers" in capsys.readouterr().out


class Runs:
    """A pickle that makes a folder when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return __import__("os").mkdir, (str(self.path),)


def truncated(folder: Path) -> Path:
    source = saved(folder, "vitrail")
    source.write_bytes(source.read_bytes()[:5000])
    return source


def wrong_header(folder: Path) -> Path:
    (folder / "m.safetensors").write_bytes(
        (40).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[9],"data_o' + bytes(60)
    )
    return folder / "m.safetensors"


def zip_bomb(folder: Path) -> Path:
    torch.save({"a": torch.ones(3)}, folder / "honest.pt")
    with (
        zipfile.ZipFile(folder / "honest.pt") as honest,
        zipfile.ZipFile(folder / "bomb.pt", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as bomb,
    ):
        for member in honest.infolist():
            bomb.writestr(member.filename, honest.read(member))
        bomb.writestr("a/data/99", bytes(100 << 20))
    return folder / "bomb.pt"


def code_in_a_pickle(folder: Path) -> Path:
    torch.save({"a": Runs(folder / "it-ran")}, folder / "m.pt")
    return folder / "m.pt"


def a_bare_pickle(folder: Path) -> Path:
    (folder / "m.pt").write_bytes(pickle.dumps(Runs(folder / "it-ran")))
    return folder / "m.pt"


def objects_in_npz(folder: Path) -> Path:
    np.savez(folder / "m.npz", a=np.array([Runs(folder / "it-ran")], dtype=object))
    return folder / "m.npz"


def a_lying_npz(folder: Path) -> Path:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)})
    with zipfile.ZipFile(folder / "m.npz", "w") as archive:
        archive.writestr("a.npy", header.getvalue() + bytes(64))
    return folder / "m.npz"


def another_network(folder: Path) -> Path:
    safetensors.torch.save_file({"conv1.weight": torch.ones(8, 3, 3, 3)}, folder / "m.safetensors")
    return folder / "m.safetensors"


def a_photograph(folder: Path) -> Path:
    Image.new("RGB", (9, 9)).save(folder / "m.safetensors", "PNG")
    return folder / "m.safetensors"


HOSTILE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "truncated": (truncated, "damaged"),
    "wrong header": (wrong_header, "header"),
    "zip bomb": (zip_bomb, "grow far beyond"),
    "code in a torch file": (code_in_a_pickle, "more than tensors"),
    "a bare pickle": (a_bare_pickle, "m.pt"),
    "objects in npz": (objects_in_npz, "Python objects"),
    "a lying npz": (a_lying_npz, "larger than it is"),
    "another network": (another_network, "no weights of a ViT"),
    "a photograph": (a_photograph, "not a weight file"),
}


@pytest.mark.parametrize(("make", "message"), HOSTILE.values(), ids=HOSTILE)
def test_inspect_says_what_is_wrong(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, make: Callable[[Path], Path], message: str
) -> None:
    assert message in refused(capsys, "inspect", str(make(tmp_path)))
    assert not (tmp_path / "it-ran").exists()


@pytest.mark.parametrize("name", builtin_names())
def test_shipped_weights_are_whole(capsys: pytest.CaptureFixture[str], name: str) -> None:
    told = vitrail_json(capsys, "inspect", f"builtin:{name}")
    assert (len(told["classes"]), told["metrics"]["num_examples"]) == (100, 10_000)
    assert told["metrics"]["accuracy"] > 0.4
    assert told["provenance"]["commit"]


LATER_KEYS = {
    "geometry": {
        "activation", "final_norm", "prefix_positions", "position_resampling", "relative_positions",
        "use_distillation_token",
    },
    "preprocessing": {"resize_size", "crop_rounding", "fast_decoding", "icc"},
}  # fmt: skip
"""What a model file of format version 1 did not say."""


def test_files_of_the_first_format_version_load(tmp_path: Path) -> None:
    path = weights.is_own("builtin:cifar100")
    assert path is not None
    with safetensors.safe_open(path, "pt") as file:
        described = json.loads(file.metadata()["vitrail"]) | {"format_version": 1}
    del described["problem_type"]
    for part, later in LATER_KEYS.items():
        assert later <= described[part].keys()
        described[part] = {name: value for name, value in described[part].items() if name not in later}
    old = tmp_path / "old.safetensors"
    metadata = {"format": "pt", "vitrail": json.dumps(described)}
    safetensors.torch.save_file(safetensors.torch.load_file(path), old, metadata)
    model, card = weights.load(old)
    newer, _ = weights.load("builtin:cifar100")
    assert len(card.classes) == 100
    image = torch.ones(1, 3, 32, 32)
    torch.testing.assert_close(model.eval()(image)["logits"], newer.eval()(image)["logits"])


def test_shipped_weights_that_do_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert "builtin:cifar100" in refused(capsys, "inspect", "builtin:imagenet")


def test_convert_there_and_back(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    source, there, back = saved(tmp_path, "vitrail"), str(tmp_path / "hf"), str(tmp_path / "back.safetensors")
    told = vitrail_json(capsys, "convert", str(source), there, "--to", "huggingface", "--verify")
    assert {"mapped", "adapted", "reinitialised", "dropped", "unknown"} <= told.keys()
    assert told["unknown"] == told["reinitialised"] == []
    assert told["max_logit_difference"] < 1e-5
    again = vitrail_json(capsys, "convert", there, back, "--to", "vitrail", "--verify")
    assert again["verified_against"] == "transformers"
    assert told["max_image_logit_difference"] > again["max_image_logit_difference"]  # profiles are ignored from here on
    assert again["max_image_logit_difference"] < 1e-5
    assert [line for line in told["lost"] if "ICC profile" in line]
    before, after = (weights.load(path)[0].state_dict() for path in (source, back))
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    timm = vitrail_json(capsys, "convert", back, str(tmp_path / "timm"), "--to", "timm", "--verify")
    assert timm["max_logit_difference"] < 1e-5
    assert main(["convert", str(source), str(tmp_path / "x"), "--to", "timm"]) == 0
    assert "mapped" in capsys.readouterr().out


def test_another_eps_than_timms_is_said_and_the_rest_verified(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    source = saved(tmp_path, "vitrail", layer_norm_eps=1e-2)
    told = vitrail_json(capsys, "convert", str(source), str(tmp_path / "timm"), "--to", "timm", "--verify")
    assert told["max_logit_difference"] < 1e-5
    assert told["verified_against"] == "timm, with layer_norm_eps 1e-06 here as there"
    assert [line for line in told["lost"] if "layer_norm_eps" in line]


@pytest.mark.parametrize("to", ["huggingface", "timm"])
def test_a_file_without_a_configuration_is_verified_without_its_library(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "max_logit_difference", lambda *_, **__: pytest.fail("the library was asked"))
    source = str((saved(tmp_path, to) / "model.safetensors").rename(tmp_path / "alone.bin"))
    told = vitrail_json(capsys, "convert", source, str(tmp_path / "x.safetensors"), "--to", "vitrail", "--verify")
    assert told["verified_against"] == "the model that was written"
    assert told["max_logit_difference"] == 0
    assert told["image_input_differences"] is None


def test_convert_refuses_what_would_be_lost(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    where = str(tmp_path / "hf")
    assert "ViT + conv" in refused(capsys, "convert", "builtin:cifar100-conv", where, "--to", "huggingface")
    source = saved(tmp_path, "vitrail")
    assert "NAME.safetensors" in refused(capsys, "convert", str(source), where, "--to", "vitrail")
    assert "it exists" in refused(capsys, "convert", str(source), str(source), "--to", "vitrail")


MODES = ("RGB", "L", "LA", "P", "RGBA", "CMYK", "16 bits", "turned by EXIF")


def photograph(path: Path, label: str, mode: str, generator: np.random.Generator) -> None:
    """Stripes across or upright, of some size, tint, phase and noise, stored in one of the modes."""
    height, width = (int(side) for side in generator.integers(30, 120, 2))
    y, x = np.mgrid[:height, :width] / min(height, width)
    waves = np.sin(2 * np.pi * generator.uniform(3, 5) * (y if label == "across" else x) + generator.uniform(0, 6))
    grey = np.clip(128 + 90 * waves + generator.normal(0, 10, waves.shape), 0, 255).astype(np.uint8)
    colours = Image.fromarray((grey[..., None] * generator.uniform(0.6, 1, 3)).astype(np.uint8))
    if mode == "16 bits":
        Image.fromarray(grey.astype(np.uint16) * 257).save(path.with_suffix(".png"))
    elif mode == "turned by EXIF":  # stored on its side; who does not turn it back sees the other class
        exif = Image.Exif()
        exif[0x0112] = 6
        colours.transpose(Image.Transpose.ROTATE_90).save(path.with_suffix(".jpg"), exif=exif)
    else:
        picture = Image.fromarray(grey) if mode in ("L", "LA") else colours
        picture.convert(mode).save(path.with_suffix(".jpg" if mode in ("RGB", "CMYK") else ".png"))


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Folders of two classes to learn from, photos, and of others that are not among them, unseen."""
    generator = np.random.default_rng(0)
    for folder, copies in (("photos", 3), ("unseen", 2)):
        for label in ("across", "upright"):
            (tmp_path / folder / label).mkdir(parents=True)
            for i, mode in enumerate(MODES * copies):
                photograph(tmp_path / folder / label / f"{i:02} {mode}", label, mode, generator)
    return tmp_path


@pytest.mark.long
@pytest.mark.timeout(600)  # 120 steps of a real run, on whatever machine
def test_photographs_to_a_model_with_one_command(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = vitrail_json(capsys, "finetune", "builtin:cifar100-conv", "--data", str(photographs / "photos"))
    assert told["baseline"]["linear"] > 0.5
    (tmp_path / "elsewhere").mkdir()
    shutil.move(told["model"], tmp_path / "elsewhere" / "m.safetensors")
    monkeypatch.chdir(tmp_path / "elsewhere")
    shutil.rmtree(told["run"] if Path(told["run"]).is_absolute() else tmp_path / told["run"])
    shutil.rmtree(photographs / "photos")
    found = vitrail_json(capsys, "predict", "m.safetensors", str(photographs / "unseen"))
    assert not found["errors"]
    assert len(found["predictions"]) == 4 * len(MODES)
    wrong = [p["path"] for p in found["predictions"] if p["label"] != Path(p["path"]).parent.name]
    assert not wrong


WRONG: dict[str, tuple[list[str], str]] = {
    "no weights": (["finetune", "--data", "digits"], "weights to start from"),
    "no data": (["finetune", "builtin:cifar100"], "images to learn from"),
    "nothing there": (["finetune", "./nowhere", "--data", "digits"], "no weights here"),
    "unknown recipe": (["finetune", "builtin:cifar100", "--data", "digits", "--recipe", "fintune"], "finetune"),
    "resume without a run": (["finetune", "--resume"], "--run"),
}


@pytest.mark.parametrize(("args", "message"), WRONG.values(), ids=WRONG)
def test_finetune_says_what_is_missing(capsys: pytest.CaptureFixture[str], args: list[str], message: str) -> None:
    assert message in refused(capsys, *args)


def test_settings_are_listed_with_the_values_of_the_weights(capsys: pytest.CaptureFixture[str]) -> None:
    told = vitrail_json(capsys, "finetune", "builtin:cifar100", "--settings")["settings"]
    assert "--data.image-size" in told
    assert "--optim.layer-decay" in told


def test_weights_take_the_place_of_whitened_patches(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["train", "cifar10-cpu", "--init", "builtin:cifar100", "--settings"]
    assert re.search(r"--init.patches +random", vitrail_json(capsys, *words)["settings"])
    assert recipes.get("cifar10-cpu").init.patches == "whitened"
    seen: list[InitConfig] = []

    def enough(config: RunConfig, *_: object, **__: object) -> None:
        seen.append(config.init)
        raise RunError("enough")

    monkeypatch.setattr(training, "train", enough)
    with pytest.raises(RunError, match="enough"):
        vitrail.train("cifar10-cpu", weights="builtin:cifar100")
    assert seen == [InitConfig(weights="builtin:cifar100")]


@pytest.mark.long
def test_train_starts_from_weights_of_its_architecture(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    small = ["--model.hidden-size", "32", "--model.num-attention-heads", "2", "--schedule.epochs"]
    first = vitrail_json(capsys, "train", "digits", "--run", str(tmp_path / "a"), *small, "3")
    again = vitrail_json(
        capsys, "train", "digits", "--run", str(tmp_path / "b"), "--init", first["model"], *small, "1",
        "--optim.lr", "1e-7", "--schedule.warmup-fraction", "0", "--optim.ema-decay", "0",
    )  # fmt: skip
    assert again["best"]["accuracy"] == pytest.approx(first["best"]["accuracy"], abs=0.02)
    assert again["baseline"]["linear"] > 0.5
    assert main(["train", "digits", "--run", str(tmp_path / "c"), "--init", first["model"]]) == 2
    assert "a different geometry" in capsys.readouterr().err


# What each kind of file can be inspected without. torch itself takes a second to load, the rest tenths of one.
NOT_NEEDED = {
    "vitrail": ("torch", "PIL", "jaxtyping", "vitrail.model"),
    "timm": (
        "sympy", "huggingface_hub", "httpx", "httpx2", "sklearn", "scipy", "transformers", "timm", "torchvision",
        "datasets", "PIL", "torch._dynamo", "torch._inductor", "torch.onnx", "torch.distributed.tensor",
    ),
}  # fmt: skip


def inspected(source: Path) -> tuple[int, set[str]]:
    """The exit status of inspect in a process of its own, and the modules that it has loaded."""
    program = (
        "import json, sys; from vitrail.cli import main; status = main(sys.argv[1:]); "
        "print(json.dumps([status, list(sys.modules)]))"
    )
    command = [sys.executable, "-c", program, "inspect", str(source)]
    told = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    status, loaded = json.loads(told.splitlines()[-1])
    return status, set(loaded)


@pytest.mark.parametrize(("kind", "modules"), NOT_NEEDED.items(), ids=NOT_NEEDED)
def test_inspect_does_not_wait_for_what_it_does_not_need(tmp_path: Path, kind: str, modules: tuple[str, ...]) -> None:
    status, loaded = inspected(saved(tmp_path, kind))
    assert status == 0
    assert not set(modules) & loaded


@pytest.mark.parametrize("make", [truncated, wrong_header, zip_bomb, a_photograph])
def test_inspect_refuses_damaged_files_before_torch_has_loaded(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    status, loaded = inspected(make(tmp_path))
    assert status == 2
    assert "torch" not in loaded
