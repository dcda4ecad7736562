"""How a command line is read: words in any order, short names of settings, near misses, empty words."""

import dataclasses
from pathlib import Path

import pytest

import vitrail
from vitrail import recipes
from vitrail.cli import main, parsed
from vitrail.cli.settings import _HABITS, apply_settings, full_name, settings_help
from vitrail.config import RunConfig
from vitrail.errors import ConfigError, WeightsError


def settled(*words: str) -> RunConfig:
    """The settings that a command line of train arrives at."""
    args = parsed(["train", *words])
    return apply_settings(recipes.get(args.recipe), args.settings, "vitrail train")


@pytest.mark.parametrize(
    "words",
    [
        ["digits", "--schedule.epochs", "3", "--optim.lr", "1e-4"],
        ["--schedule.epochs", "3", "digits", "--optim.lr=1e-4"],
        ["--epochs", "3", "--lr", "1e-4", "digits"],
        ["--epochs=3", "digits", "--lr=1e-4"],
    ],
)
def test_settings_stand_anywhere_and_may_be_short(words: list[str]) -> None:
    config = settled(*words)
    assert (config.recipe, config.schedule.epochs, config.optim.lr) == ("digits", 3, 1e-4)


def test_values_of_every_type() -> None:
    config = settled(
        "--image-size", "16", "8", "--decode-size", "32", "--mean", "0.5", "digits", "--std", "0.25",
        "--scale", "0.5", "2",
        "--fast-decoding", "true", "--compute.compile", "False", "--attention-scale", "none", "--stem-channels",
        "--seed", "-0", "--device", "cuda:1", "--policy", "rand-augment",
    )  # fmt: skip
    assert (config.data.image_size, config.data.decode_size) == ((16, 8), 32)
    assert (config.data.mean, config.data.std, config.augment.scale) == ((0.5,), (0.25,), (0.5, 2.0))
    assert (config.data.fast_decoding, config.compute.compile) == (True, False)
    assert (config.model.attention_scale, config.model.stem_channels) == (None, ())
    assert (config.seed, config.compute.device, config.augment.policy) == (0, "cuda:1", "rand-augment")
    assert config.recipe == "digits"


def test_a_switch_alone_means_yes() -> None:
    assert settled("--data.fast-decoding", "--seed", "1", "digits").data.fast_decoding
    with pytest.raises(ConfigError, match=r"data\.fast-decoding has a wrong value(.|\n)*'digits'"):
        settled("--data.fast-decoding", "digits", "digits")


def test_epochs_that_are_asked_for_replace_the_steps_of_a_recipe() -> None:
    recipe = recipes.get("finetune-sgd")
    assert recipe.schedule.steps > 0
    changed = apply_settings(recipe, ["--schedule.epochs", "2"], "p").schedule
    assert (changed.epochs, changed.steps) == (2, 0)
    both = apply_settings(recipe, ["--schedule.epochs", "2", "--schedule.steps", "7"], "p").schedule
    assert (both.epochs, both.steps) == (2, 7)
    assert apply_settings(recipe, ["--optim.lr", "1"], "p").schedule == recipe.schedule


def test_every_setting_is_reachable_and_listed() -> None:
    config = RunConfig()
    text = "\n".join(settings_help(config))
    for section in dataclasses.fields(config):
        part = getattr(config, section.name)
        for field in dataclasses.fields(part) if dataclasses.is_dataclass(part) else ():
            value = getattr(part, field.name)
            words = [str(v) for v in (value if isinstance(value, tuple) else (value,))]
            flag = f"--{section.name}.{field.name}".replace("_", "-")
            assert apply_settings(config, [f"{flag}=" if words == [""] else flag, *filter(None, words)], "p") == config
            assert flag in text


def test_other_options_stand_anywhere() -> None:
    args = parsed(["--json", "predict", "--image-size", "96", "m", "a.png", "--top", "3", "b.png", "--", "-c.png"])
    assert (args.model, args.paths, args.image_size, args.top, args.json) == (
        "m", ["a.png", "b.png", "-c.png"], [96], 3, True,
    )  # fmt: skip


REFUSED = {
    "--batch-size 2": "--data.batch-size or --evaluation.batch-size",
    "--epoch 2": "Did you mean --schedule.epochs?",
    "--train.epochs 2": "Did you mean --schedule.epochs?",
    "--optim.learning-rate 2": "--optim.lr",
    "--learning_rate 2": "--optim.lr",
    "--output x": "--run",
    "--workers 4": "nothing to set",
    "--resmue": "Did you mean --resume?",
    "-e 2": "no option -e",
    "--lr": "--optim.lr needs a value",
    "--lr --epochs 2": "--optim.lr needs a value",
    "--lr fast": "expected a number",
    "--epochs 1.5": "expected an integer",
    "--image-size big": "expected an integer or 2 integers",
    "--compile maybe": "expected True or False",
    "--optim.name sdg": "expected one of adam, adamw",
    "--zzz 1": "--settings",
}


@pytest.mark.parametrize("words", REFUSED)
def test_a_wrong_setting_is_named_and_points_to_the_list(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "digits", *words.split()]) == 2
    told = capsys.readouterr()
    assert REFUSED[words] in told.err
    assert "[" not in told.err  # no markup
    assert "\u2502" not in told.err  # no box
    assert told.out == ""


def test_what_other_programs_call_it_is_called_so_here() -> None:
    args = {word for meant in _HABITS.values() for word in meant.split() if word.startswith("--")}
    own = {"--run", "--data", "--init", "--from", "--nproc", "--resume"}
    assert all(flag.strip(",") in own or full_name(flag) for flag in args)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["predict", "", "x.png"], "MODEL"),
        (["predict", "m", ""], "PATH"),
        (["predict", "m", "a.png", ""], "PATH"),
        (["eval", ""], "MODEL"),
        (["eval", "m", "--data", ""], "--data"),
        (["train", "digits", "--run="], "--run"),
        (["train", "digits", "--run", ""], "--run"),
        (["train", ""], "RECIPE"),
        (["finetune", "builtin:cifar100", "--data", ""], "--data"),
        (["inspect", ""], "FILE_OR_DIR_OR_ID"),
        (["data", "info", ""], "SPEC"),
        (["data", "pack", "digits", ""], "DST"),
    ],
)
def test_an_empty_word_is_refused(words: list[str], name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert capsys.readouterr().err.startswith(f"vitrail: {name} is empty.")


@pytest.mark.parametrize(
    "words", [[], ["--help"], ["-h"], ["help"], ["help", "predict"], ["predict", "-h"], ["predict", "m", "--help"]]
)
def test_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(words)
    told = capsys.readouterr()
    assert (end.value.code, told.err) == (0, "")
    assert told.out.startswith(f"usage: vitrail {'predict ' if 'predict' in words else '[-h]'}")


def test_verbs() -> None:
    with pytest.raises(ConfigError, match="Did you mean: vitrail finetune"):
        parsed(["fine-tune", "x"])
    with pytest.raises(ConfigError, match="takes no settings"):
        parsed(["eval", "m", "--epochs", "1"])
    with pytest.raises(ConfigError, match="required: MODEL, PATH"):
        parsed(["predict"])


def test_data_in_the_place_of_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    for words, told in {
        "train photos": "vitrail train cifar10-cpu --data photos",
        "train digits photos": "given with --data",
        "finetune photos": "vitrail finetune builtin:cifar100-conv --data photos",
        "finetune builtin:cifar100-conv photos": "given with --data",
        "eval m photos": "given with --data",
    }.items():
        assert main(words.split()) == 2
        assert told in capsys.readouterr().err


def test_an_empty_name_is_no_working_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match="is empty"):
        vitrail.load("")
    assert main(["train", "digits", "--data.spec="]) == 2
