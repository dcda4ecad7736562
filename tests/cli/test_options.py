"""One rule for each kind of option: the same words everywhere, and none that a command would ignore."""

from pathlib import Path

import pytest

from vitrail.cli import _parsers, main, parsed
from vitrail.errors import ConfigError

IGNORED = {
    "data info digits --image-size 32": "data info does not take --image-size: it belongs to data pack",
    "data check digits --channels L": "data check does not take --channels",
    "data info digits --near": "data info does not take --near: it belongs to data check",
    "data pack digits out --write-manifest a.csv": "data pack does not take --write-manifest",
    "data check digits --strict": "--strict needs --near",
    "data check digits --model builtin:cifar100": "--model needs --near",
    "data check digits --resize-mode squash": "data check does not take --resize-mode",
    "data download digits --fast-decoding": "data download does not take --fast-decoding",
    "data info digits --no-fast-decoding": "data info does not take --fast-decoding",
    "data info digits --icc ignore": "data info does not take --icc",
    "data info digits new": "data info does not take DST",
    "selftest --kills 3": "--kills needs --faults",
    "selftest --kill-seed 0": "--kill-seed needs --faults",
    "train digits --max-restarts 2": "--max-restarts needs --nproc",
    "train --from x.json --resume --run r": "--resume and --from exclude each other",
    "train digits --init x --init.weights y": "--init and --init.weights are the same setting",
    "finetune w --data x --head keep --init.head keep": "--head and --init.head are the same setting",
    "recipes digits": "recipes takes no further argument",
    "inspect m --device cpu": "inspect takes no settings of a run.\n  Got --device",
    "predict m x.png --data digits": "predict has no option --data",
}


@pytest.mark.parametrize("line", IGNORED)
def test_an_option_that_would_be_ignored_is_refused(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    assert IGNORED[line] in capsys.readouterr().err


def test_a_resumed_run_keeps_its_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(tmp_path / "run")
    assert main(["train", "digits", "--run", run, "--max-steps", "1", "--num-hidden-layers", "1"]) == 0
    for words, told in {
        f"train --resume --run {run} --init builtin:cifar100": "init.weights differs",
        f"finetune --resume --run {run} --recipe lora": "holds a run with another recipe",
        f"finetune --resume --run {run} --head keep": "holds a run with another head",
    }.items():
        capsys.readouterr()
        assert main(words.split()) == 2
        assert told in capsys.readouterr().err, words
    assert main(["finetune", "--resume", "--run", run, "--settings"]) == 0
    assert "--model.num-hidden-layers 1" in capsys.readouterr().out


def test_the_words_of_precision_are_the_same_everywhere() -> None:
    assert parsed(["eval", "m", "--precision", "int8"]).precision == "int8"
    assert parsed(["predict", "m", "x", "--precision=fp32"]).precision == "fp32"
    assert parsed(["bench", "--precision", "bf16"]).precision == "bf16"
    assert parsed(["train", "digits", "--precision", "fp8"]).settings == ["--compute.precision=fp8"]
    for words, told in {
        "eval m --precision fp8": "fp8 is for train and finetune; expected fp32 or tf32 or bf16 or fp16 or int8",
        "predict m x --precision fp8": "fp8 is for train and finetune; expected fp32 or tf32 or bf16 or fp16 or int8",
        "bench --precision int8": "int8 is for eval, predict and export; expected fp32 or bf16 or fp16",
        "bench --precision half": "there is no precision 'half'; expected fp32 or bf16 or fp16",
    }.items():
        with pytest.raises(ConfigError, match=told):
            parsed(words.split())


def test_device_and_data_are_the_same_everywhere() -> None:
    assert parsed(["train", "digits", "--device", "cpu"]).settings == ["--compute.device=cpu"]
    assert parsed(["finetune", "w", "--device", "cpu"]).settings == ["--compute.device=cpu"]
    for words in (["eval", "m"], ["predict", "m", "x"], ["bench"]):
        assert parsed([*words, "--device", "cuda:1"]).device == "cuda:1"
    for words in (["train", "digits"], ["finetune", "w"], ["eval", "m"]):
        args = parsed([*words, "--data", "photos", "--data-root", "root"])
        assert (args.data, args.data_root) == ("photos", "root")


def test_every_switch_has_its_opposite() -> None:
    _, verbs = _parsers()
    switches = [
        (verb, option)
        for verb, parser in verbs.items()
        for option, action in parser._option_string_actions.items()
        if action.nargs == 0 and option not in ("-h", "--help") and not option.startswith("--no-")
    ]
    assert len(switches) > 12
    for verb, option in switches:
        action = verbs[verb]._option_string_actions[option.replace("--", "--no-", 1)]
        assert action.dest == verbs[verb]._option_string_actions[option].dest


def test_an_option_with_several_values_takes_them_all() -> None:
    args = parsed(["export", "m", "--images", "a.jpg", "b c.jpg", "--samples", "40"])
    assert (args.model, args.images, args.samples) == ("m", ["a.jpg", "b c.jpg"], 40)
    assert parsed(["export", "--images", "a.jpg", "--to", "onnx", "m"]).model == "m"
