"""How a command line is read: words in any order, short names of settings, near misses, empty words."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

import vitrail
from vitrail import recipes
from vitrail.cli import main, parsed
from vitrail.cli.settings import _HABITS, _fields, apply_settings, as_flag, full_name, settings_help
from vitrail.config import ArchitectureConfig, AugmentConfig, DataConfig, RunConfig
from vitrail.data import files_at
from vitrail.errors import ConfigError, DataError, WeightsError


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


def test_a_switch_is_on_as_x_and_off_as_no_x() -> None:
    for words, value in {
        ("--data.fast-decoding",): True,
        ("--fast-decoding",): True,
        ("--no-data.fast-decoding",): False,
        ("--no-fast-decoding",): False,
        ("--data.fast-decoding", "True"): True,
        ("--data.fast-decoding", "false"): False,
        ("--data.fast-decoding=False",): False,
        ("--fast-decoding", "--no-fast-decoding"): False,
    }.items():
        assert settled(*words, "digits").data.fast_decoding is value, words
        assert settled("digits", *words, "--seed", "1").data.fast_decoding is value, words
    assert parsed(["train", "--resume", "--no-resume", "--json"]).resume is False
    assert parsed(["eval", "m", "--json", "--no-json"]).json is False


@pytest.mark.parametrize(
    ("words", "size"),
    [
        (["--image-size", "16"], 16),
        (["--image-size", "16x8"], (16, 8)),
        (["--image-size=16X8"], (16, 8)),
        (["--image-size", "16", "8"], (16, 8)),
    ],
)
def test_a_size_is_one_side_or_height_x_width(words: list[str], size: object) -> None:
    assert settled(*words, "digits").data.image_size == size
    assert settled("digits", *words).data.image_size == size


def test_a_list_is_written_with_commas_or_spaces() -> None:
    for words in (["--mean", ".5", ".25", "1"], ["--mean", ".5,.25,1"], ["--mean=.5,.25,1"]):
        assert settled(*words, "digits").data.mean == (0.5, 0.25, 1.0)
    for words in (["--stem-channels"], ["--stem-channels", "none"], ["--stem-channels=none"]):
        assert settled(*words, "digits").model.stem_channels == ()
    assert settled("--betas", "0.9,0.99", "digits").optim.betas == (0.9, 0.99)


def test_an_option_leaves_the_file_beside_it_alone() -> None:
    args = parsed(["predict", "m", "--image-size", "384", "photo.jpg", "2024"])
    assert (args.image_size, args.paths) == (384, ["photo.jpg", "2024"])
    args = parsed(["predict", "--image-size", "288x512", "m", "photo.jpg"])
    assert (args.image_size, args.model, args.paths) == ((288, 512), "m", ["photo.jpg"])
    assert parsed(["convert", "m", "new", "--to", "timm", "--image-size", "96x64"]).image_size == (96, 64)
    with pytest.raises(ConfigError, match="takes no further argument(.|\n)*288x512"):
        parsed(["eval", "m", "--image-size", "288", "512"])
    for wrong in ("big", "0", "16x", "8x8x8", "-4"):
        with pytest.raises(ConfigError, match="--image-size: .* is not a size: 384, or 288x512"):
            parsed(["eval", "m", "--image-size", wrong])


def test_epochs_that_are_asked_for_replace_the_steps_of_a_recipe() -> None:
    recipe = recipes.get("finetune-sgd")
    assert recipe.schedule.steps > 0
    changed = apply_settings(recipe, ["--schedule.epochs", "2"], "p").schedule
    assert (changed.epochs, changed.steps) == (2, 0)
    both = apply_settings(recipe, ["--schedule.epochs", "2", "--schedule.steps", "7"], "p").schedule
    assert (both.epochs, both.steps) == (2, 7)
    assert apply_settings(recipe, ["--optim.lr", "1"], "p").schedule == recipe.schedule


def lines_of(config: RunConfig) -> list[str]:
    """The lines of --settings that are settings."""
    return [line.strip() for line in settings_help(config) if line.startswith("  --")]


@pytest.mark.parametrize("name", [*recipes.names(), ""])
def test_what_settings_prints_is_what_the_parser_takes(name: str) -> None:
    config = recipes.get(name) if name else RunConfig()
    listed = lines_of(config)
    other = RunConfig(  # every value differs from the listed one, wherever a line is left out
        data=DataConfig(
            spec="x", root="--odd 'name'", image_size=(32, 64), fast_decoding=True, mean=(0.25,), std=(2.0,)
        ),
        model=ArchitectureConfig(attention_scale=0.5, stem_channels=(8, 16), stem_strides=(2, 1), qkv_bias=False),
        augment=AugmentConfig(scale=(0.5, 1.5)),
    )
    for start, wanted in ((other, config), (config, other)):
        lines = lines_of(wanted)
        words = [word for line in lines for word in shlex.split(line)]
        args = parsed(["train", *words])
        assert args.recipe is None
        given = apply_settings(start, args.settings, "vitrail train")
        alike = replace(given.optim, lr_width=wanted.optim.lr_width)  # that of the recipe, which no option sets
        assert replace(given, recipe=wanted.recipe, optim=alike) == wanted
    names = {line.split()[0].partition("=")[0].replace("--no-", "--") for line in listed}
    assert names == {as_flag(field) for field in _fields()}
    assert not any(word in "\n".join(listed) for word in ("True", "False", "None"))


@pytest.mark.parametrize("name", [*recipes.names(), ""])
def test_each_line_of_settings_alone_changes_nothing(name: str) -> None:
    config = recipes.get(name) if name else RunConfig()
    for line in lines_of(config):
        if not line.startswith("--schedule.epochs"):  # whoever asks for epochs means them, not the recipe's steps
            assert apply_settings(config, shlex.split(line), "p") == config, line


def test_settings_lists_what_the_command_line_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "digits", "--settings", "--lr", "0.5", "--data", "photos"]) == 0
    text = capsys.readouterr().out
    assert "--optim.lr 0.5" in text
    assert "--data.spec photos" in text


def test_other_options_stand_anywhere() -> None:
    args = parsed(["--json", "predict", "--image-size", "96", "m", "a.png", "--top", "3", "b.png", "--", "-c.png"])
    assert (args.model, args.paths, args.image_size, args.top, args.json) == (
        "m", ["a.png", "b.png", "-c.png"], 96, 3, True,
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
    "--image-size big": "expected a size: 384, or 288x512 (height x width)",
    "--compile=maybe": "expected --compute.compile or --no-compute.compile",
    "--compile maybe": "Got maybe",
    "--no-compile=true": "no option --no-compile",
    "--no-lr": "no option --no-lr",
    "--optim.lr-width 64": "Here it is --optim.lr",
    "--data x --data.spec y": "--data and --data.spec are the same setting",
    "--mean .5,": "expected numbers, or none",
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


def test_a_path_that_the_shell_has_parted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my photo one.png").write_bytes(b"")
    with pytest.raises(DataError, match="A path with spaces needs quotes: 'my photo one.png'"):
        files_at(["my", "photo", "one.png"])
    with pytest.raises(ConfigError, match="A path with spaces needs quotes"):
        parsed(["eval", "runs/x", "my", "photos"])


def test_a_file_whose_name_begins_like_an_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-dash.png").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"For the file of that name: \./-dash\.png"):
        parsed(["predict", "runs/x", "-dash.png"])
    assert parsed(["predict", "runs/x", "./-dash.png"]).paths == ["./-dash.png"]


@pytest.mark.parametrize(
    ("word", "said"), [("mirrored", "Did you mean mirror?"), ("both", "See: vitrail predict --help")]
)
def test_a_value_that_an_option_does_not_take(word: str, said: str) -> None:
    with pytest.raises(ConfigError, match="--views does not take this value") as caught:
        parsed(["predict", "runs/x", "a.png", "--views", word])
    assert (caught.value.got, caught.value.expected, caught.value.do) == (repr(word), "one of single, mirror", said)


def test_an_image_in_the_model_s_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.PNG").write_bytes(b"")
    assert main(["predict", str(tmp_path / "a.PNG"), "runs/x"]) == 2
    assert "The model comes first: vitrail predict MODEL IMAGE ..." in capsys.readouterr().err


def test_no_verb_says_vitrail_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-x"]) == 2
    assert capsys.readouterr().err.startswith("vitrail: unrecognized arguments: -x")
