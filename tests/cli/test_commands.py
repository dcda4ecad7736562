"""The verbs from start to end, as a user types them, with the JSON that scripts rely on."""

import json
import os
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vitrail import data, recipes, selftest
from vitrail.cli import main
from vitrail.selftest.tiny import tiny_run

FAST = ["--schedule.epochs", "3", "--model.num-hidden-layers", "2",
        "--model.hidden-size", "32", "--model.num-attention-heads", "2", "--data.batch-size", "128"]  # fmt: skip


def vitrail_json(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    """Run a verb with --json; standard output must hold one JSON object and nothing else."""
    capsys.readouterr()
    status = main([*args, "--json"])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    assert captured.out.count("\n") == 1
    return json.loads(captured.out)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "run"
    assert main(["train", "digits", "--run", str(path), *FAST]) == 0
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three digits, a text file, a text file called .png, and a hidden file."""
    folder = tmp_path_factory.mktemp("images")
    digits = data.load(tiny_run().data, ("test",))["test"]
    (folder / "more").mkdir()
    for i, name in enumerate(("b.png", "a.png", "more/c.png")):
        Image.fromarray(digits.images[i, 0]).save(folder / name)
    (folder / "notes.txt").write_text("hello")
    (folder / "broken.png").write_text("hello")
    (folder / ".hidden.png").write_text("hello")
    return folder


def test_recipes_are_listed_with_what_they_state(capsys: pytest.CaptureFixture[str]) -> None:
    listed = vitrail_json(capsys, "recipes")["recipes"]
    assert [r["name"] for r in listed] == recipes.names()
    assert all(r[key] for r in listed for key in ("what", "command", "hardware", "time", "expected", "source"))
    main(["recipes"])
    text = capsys.readouterr().out
    assert all(name in text for name in recipes.names())


def test_train_answers_the_promised_keys(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    result = vitrail_json(capsys, "train", "digits", "--run", str(tmp_path / "run"), "--seed", "3", *FAST)
    assert {"run", "model", "epochs", "steps", "num_examples_seen", "train_seconds", "images_per_second", "final",
            "best", "evaluation"} <= result.keys()  # fmt: skip
    assert {"epoch", "accuracy", "loss"} == result["best"].keys() == result["final"].keys()
    assert (result["epochs"], result["steps"]) == (3, 36)
    assert Path(result["model"]).is_file()
    assert json.loads((tmp_path / "run" / "config.json").read_text())["seed"] == 3


@pytest.mark.long
def test_relative_positions_are_named_before_and_after_training(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run = str(tmp_path / "run")
    assert main(["train", "digits", "--run", run, "--model.relative-positions", *FAST, "--schedule.epochs", "1"]) == 0
    assert "plain ViT with relative positions, " in capsys.readouterr().err
    assert main(["inspect", run]) == 0
    assert "positions learned and relative" in " ".join(capsys.readouterr().out.split())


def test_pretraining_that_learnt_nothing_says_so(
    capsys: pytest.CaptureFixture[str], images: Path, tmp_path: Path
) -> None:
    """Three steps on images of one colour, which their mean colour paints without an error."""
    for i in range(12):
        Image.new("RGB", (8, 8), (20 * i, 99, 200)).save(tmp_path / f"{i}.png")
    args = ["pretrain", "--data", str(tmp_path), "--run", str(tmp_path / "run"), "--image-size", "8", *FAST]
    assert main([*args, "--data.batch-size", "4"]) == 0
    assert "learnt nothing that helps yet: train longer" in capsys.readouterr().out


def test_a_stored_config_is_replayed(capsys: pytest.CaptureFixture[str], run: Path, tmp_path: Path) -> None:
    again = vitrail_json(capsys, "train", "--from", str(run / "config.json"), "--run", str(tmp_path / "again"))
    assert (tmp_path / "again" / "config.json").read_bytes() == (run / "config.json").read_bytes()
    assert again["evaluation"] == json.loads((run / "evaluation.json").read_text())


@pytest.mark.parametrize("batch_size", ["1", "7", "512"])
def test_eval_repeats_the_figure_of_the_run(capsys: pytest.CaptureFixture[str], run: Path, batch_size: str) -> None:
    stored = json.loads((run / "evaluation.json").read_text())
    result = vitrail_json(capsys, "eval", str(run), "--batch-size", batch_size)
    assert result["num_examples"] == stored["num_examples"] == 359
    assert result["num_correct"] == stored["num_correct"]
    assert result["confusion"] == stored["confusion"]
    assert result["accuracy"] == stored["accuracy"]
    assert result["loss"] == pytest.approx(stored["loss"], abs=1e-6)
    assert {"top5_accuracy", "per_class", "errors"} <= result.keys()
    assert {"num_examples", "precision", "recall", "f1"} == result["per_class"]["3"].keys()


def test_eval_measures_mirror_images_in_a_row_of_their_own(
    capsys: pytest.CaptureFixture[str], run: Path, tmp_path: Path
) -> None:
    files = [tmp_path / "plain.safetensors", tmp_path / "both.safetensors"]
    plain = vitrail_json(capsys, "eval", str(run), "--predictions", str(files[0]))
    both = vitrail_json(capsys, "eval", str(run), "--views", "mirror", "--predictions", str(files[1]))
    mirrored = both.pop("with_mirror")
    assert both == plain
    assert files[0].read_bytes() == files[1].read_bytes()
    assert mirrored["accuracy"] == mirrored["num_correct"] / plain["num_examples"] != plain["accuracy"]
    *_, before, last = map(json.loads, (run / "evaluations.jsonl").read_text().splitlines())
    assert last == {**before, "accuracy_with_mirror": mirrored["accuracy"]}
    assert main(["eval", str(run), "--views", "mirror"]) == 0
    first, _, line, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith(f"accuracy {plain['accuracy']:.4f}")
    assert line.startswith(f"mean over each image and its mirror image: accuracy {mirrored['accuracy']:.4f}")


def test_predict_is_careful_with_mirror_images_that_the_model_never_saw(
    capsys: pytest.CaptureFixture[str], run: Path, images: Path
) -> None:
    """The digits recipe mirrors nothing; the weights in the package were trained with mirrored images."""
    words = [str(images / "a.png"), "--views", "mirror"]
    for model, is_said in ((str(run), True), ("builtin:cifar100", False)):
        assert main(["predict", model, *words]) == 0
        assert ("trained without mirrored images" in capsys.readouterr().err) == is_said
    assert main(["predict", str(run), words[0]]) == 0
    assert "mirrored" not in capsys.readouterr().err


def test_predict_says_that_mirror_images_count(
    capsys: pytest.CaptureFixture[str], run: Path, images: Path, tmp_path: Path
) -> None:
    """A picture and its mirror image then have the same answer."""
    with Image.open(images / "a.png") as picture:
        picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "turned.png")
    words = ["predict", str(run), str(images / "a.png"), str(tmp_path / "turned.png")]
    plain, both = vitrail_json(capsys, *words), vitrail_json(capsys, *words, "--views", "mirror")
    assert both.keys() - plain.keys() == {"views"}
    assert both["views"] == "mirror"
    first, second = (one["probability"] for one in both["predictions"])
    assert first == pytest.approx(second, abs=1e-6)
    alone, turned = (one["probability"] for one in plain["predictions"])
    assert alone != pytest.approx(turned, abs=1e-3)
    assert main([*words, "--views", "mirror"]) == 0
    assert "the mean over an image and its mirror image" in capsys.readouterr().out


def test_eval_on_the_hold_out_of_another_spec(capsys: pytest.CaptureFixture[str], run: Path, tmp_path: Path) -> None:
    digits = data.load(tiny_run().data, ("test",))["test"]
    for i in range(40):
        label = digits.classes[digits.labels[i]]
        (tmp_path / "test" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / label).mkdir(parents=True, exist_ok=True)
        for split in ("train", "test"):
            Image.fromarray(digits.images[i, 0]).save(tmp_path / split / label / f"{i}.png")
    (tmp_path / "test" / "3" / "zz.png").write_text("not a picture")
    result = vitrail_json(capsys, "eval", str(run), "--data", str(tmp_path))
    assert result["num_examples"] == 41
    assert [Path(error["path"]).name for error in result["errors"]] == ["zz.png"]
    assert main(["eval", str(run), "--data", str(tmp_path)]) == 0
    assert "could not be read and count as wrong" in capsys.readouterr().out


def test_predict_on_a_folder_of_mixed_files(capsys: pytest.CaptureFixture[str], run: Path, images: Path) -> None:
    result = vitrail_json(capsys, "predict", str(run), str(images), "--top", "3")
    assert [Path(p["path"]).name for p in result["predictions"]] == ["a.png", "b.png", "c.png"]
    assert {Path(e["path"]).name for e in result["errors"]} == {"notes.txt", "broken.png"}
    first = result["predictions"][0]
    assert len(first["top"]) == 3
    assert first["top"][0] == {"label": first["label"], "probability": first["probability"]}
    assert main(["predict", str(run), str(images)]) == 0
    text = capsys.readouterr().out
    assert text.count("unreadable:") == 2
    assert str(images / "a.png") in text


def test_predict_takes_files_and_a_model_file(capsys: pytest.CaptureFixture[str], run: Path, images: Path) -> None:
    from_file = vitrail_json(capsys, "predict", str(run / "best.safetensors"), str(images / "a.png"))
    from_run = vitrail_json(capsys, "predict", str(run), str(images / "a.png"))
    assert from_file == from_run


def test_own_folder_without_a_test_split(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    digits = data.load(tiny_run().data, ("test",))["test"]
    for i in range(100):
        folder = tmp_path / "photos" / f"digit {digits.classes[digits.labels[i]]}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits.images[i, 0]).resize((40, 30)).save(folder / f"{i}.png")
    settings = [
        "--data.channels",
        "RGB",
        "--data.image-size",
        "16",
        "--schedule.epochs",
        "1",
    ]
    settings += ["--data.validation-fraction", "0.2", "--compute.compile", "False"]
    args = ["train", "digits", "--data", str(tmp_path / "photos"), "--run", str(tmp_path / "my run"), *settings]
    assert main(args) == 0
    captured = capsys.readouterr()
    assert "no test split" in captured.err
    (line,) = [line for line in captured.out.splitlines() if "vitrail eval" in line]
    first = vitrail_json(capsys, *shlex.split(line)[1:])
    stored = json.loads((tmp_path / "my run" / "evaluation.json").read_text())
    assert (first["split"], first["num_correct"]) == ("val", stored["num_correct"])
    spelt_otherwise = vitrail_json(capsys, *shlex.split(line)[1:], "--data", str(tmp_path / "photos") + "/")
    assert spelt_otherwise["num_examples"] == stored["num_examples"]


def test_resume_needs_nothing_but_the_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    assert main(["train", "digits", "--run", run, *FAST, "--optim.lr", "5e-4", "--schedule.max-steps", "4"]) == 0
    resumed = vitrail_json(capsys, "train", "digits", "--run", run, "--resume", "--schedule.max-steps", "0")
    assert resumed["steps"] == 36 * 3 // 3
    assert main(["train", "cifar10-cpu", "--run", run, "--resume"]) == 2
    assert "another recipe" in capsys.readouterr().err


def test_data_info(capsys: pytest.CaptureFixture[str]) -> None:
    found = vitrail_json(capsys, "data", "info", "digits")
    counts = {name: sum(split["per_class"].values()) for name, split in found["splits"].items()}
    assert counts["test"] == 359
    assert sum(counts.values()) == 1797
    assert main(["data", "info", "digits"]) == 0
    text = capsys.readouterr().out
    assert "359" in text


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_a_signal_saves_and_says_how_to_go_on(tmp_path: Path, number: signal.Signals) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "vitrail", "train", "digits", "--run", str(run), "--schedule.epochs", "1000"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ
    ) as process:
        deadline = time.monotonic() + 60
        while not (run / "metrics.jsonl").exists() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + number, error
    assert f"vitrail train --run {run} --resume" in error
    assert "Traceback" not in error
    (checkpoint,) = (run / "checkpoints").iterdir()
    step = int(checkpoint.name.removeprefix("step-"))
    assert main(["train", "--run", str(run), "--resume", "--schedule.max-steps", str(step + 3)]) == 0


def test_data_pack_and_check(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    packed = vitrail_json(capsys, "data", "pack", "digits", str(tmp_path / "packed"), "--channels", "L")
    assert packed["decode_size"] == [8, 8]
    assert packed["splits"]["test"] == {"num_examples": 359, "errors": []}
    info = vitrail_json(capsys, "data", "info", str(tmp_path / "packed"))
    assert info["splits"]["train"]["num_examples"] == 1438
    checked = vitrail_json(capsys, "data", "check", str(tmp_path / "packed"))
    assert checked["splits"]["test"]["num_examples"] == 359
    assert main(["data", "check", "digits"]) == 0
    assert "10 classes 1438 359" in " ".join(capsys.readouterr().out.split())
    assert main(["data", "pack", "digits"]) == 2
    assert "DST" in capsys.readouterr().err
    assert main(["data", "pack", "digits", str(tmp_path / "packed")]) == 2


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("failures", [(), ("no finite gradient of head.weight",)])
def test_a_self_test_that_finds_something_wrong_ends_with_another_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], failures: tuple[str, ...], as_json: bool
) -> None:
    found = selftest.Check("model", 1, failures, 0.1)
    monkeypatch.setattr(selftest, "check_all", lambda folder: iter([found]))
    assert main(["selftest", *(["--json"] if as_json else [])]) == (1 if failures else 0)
    out, told = capsys.readouterr()
    assert "1 point " in told and (" 1 failure " if failures else " 0 failures ") in told
    assert json.loads(out)["ok"] == (not failures) if as_json else all(line in out for line in failures)


def test_a_data_check_that_finds_something_wrong_ends_with_another_status(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, file in (("one", "a.png"), ("two", "b.png")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes((images / file).read_bytes())
    assert main(["data", "check", str(tmp_path)]) == 0
    assert "2 classes have a single image each, too few" in capsys.readouterr().out
    (tmp_path / "two" / "y.png").write_bytes((images / "a.png").read_bytes())
    assert main(["data", "check", str(tmp_path)]) == 2


STRAY = [{"RANK": "1"}, {"RANK": "1", "WORLD_SIZE": "1"}, {"RANK": "3", "WORLD_SIZE": "4"}]


@pytest.mark.parametrize("stray", STRAY)
def test_a_rank_left_in_the_environment_silences_no_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], run: Path, images: Path, stray: dict[str, str]
) -> None:
    for name, value in stray.items():
        monkeypatch.setenv(name, value)
    assert vitrail_json(capsys, "recipes")["recipes"]
    assert main(["inspect", str(run.parent / "nothing")]) == 2
    assert "nothing" in capsys.readouterr().err
    status = main(["predict", str(run), str(images / "a.png")])
    told = capsys.readouterr()
    if stray.get("WORLD_SIZE") == "4":  # half of a launch: refused, not silent
        assert status == 2
        assert "unset WORLD_SIZE" in told.err
    else:
        assert status == 0
        assert "a.png" in told.out


def test_a_world_size_that_is_no_number(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WORLD_SIZE", "many")
    monkeypatch.setenv("RANK", "0")
    assert main(["eval", "runs/none"]) == 2
    assert "WORLD_SIZE" in capsys.readouterr().err


def test_a_command_ends_without_a_last_search_for_garbage() -> None:
    """Through all objects of torch that search takes 0.4 s."""
    program = (
        "import atexit, gc, sys; atexit.register(lambda: print(gc.get_freeze_count())); "
        "from vitrail.cli import main; sys.argv = ['vitrail', 'recipes']; main()"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True).stdout
    assert int(told.splitlines()[-1]) > 1000


@pytest.mark.parametrize("several", [False, True])
def test_one_of_several_processes_ends_without_pythons_last_steps(several: bool) -> None:
    """In them a thread of torch would abort it, now and then. Whatever was registered for the end is called before."""
    code = textwrap.dedent("""
        import atexit, builtins, sys
        from vitrail.cli import main

        class Last:
            def __del__(self):
                print("taken down", file=sys.__stderr__, flush=True)

        builtins.last = Last()
        sys.argv = ["vitrail", "recipes", "--json"]
        status = main()
        atexit.register(print, "called")
        sys.exit(status)
    """)
    env = {**os.environ, "WORLD_SIZE": "2", "RANK": "0"} if several else os.environ
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "called"
    assert ("taken down" in done.stderr) is not several
