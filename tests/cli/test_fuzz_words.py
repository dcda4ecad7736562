"""Command lines that nobody thought of: they are understood, or refused with an error of ours, and nothing else."""

import contextlib
import dataclasses
import shlex

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vitrail.cli import _VERBS, parsed  # pyright: ignore[reportPrivateUsage]
from vitrail.cli.settings import apply_settings, hint, is_setting, settings_help, take_setting, values_of_settings
from vitrail.config import RunConfig
from vitrail.config.settings import as_flag, full_name, setting_types
from vitrail.errors import ConfigError

FLAGS = sorted({*values_of_settings(), *("--" + f.rpartition(".")[2].replace("_", "-") for f in setting_types())})
OPTIONS = [
    "--json",
    "--no-json",
    "--data",
    "--run",
    "--image-size",
    "--resume",
    "--no-resume",
    "--top",
    "--to",
    "--",
    "-",
]
VALUES = st.one_of(
    st.sampled_from(["", "true", "none", "digits", "m.safetensors", "384", "288x512", ".5,.25", "-1", "nan", "1e400"]),
    st.integers(-3, 10**12).map(str),
    st.floats().map(str),
    st.text(max_size=12),
)
FLAG = st.one_of(st.sampled_from(FLAGS), st.sampled_from(OPTIONS), st.text(max_size=8).map("--".__add__))
WORDS = st.lists(st.one_of(FLAG, VALUES, st.tuples(FLAG, VALUES).map("=".join)), max_size=8)
FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)


@FUZZ
@given(st.sampled_from([*_VERBS, "help", "trian", ""]), WORDS)
def test_a_command_line_is_understood_or_refused(verb: str, words: list[str]) -> None:
    with contextlib.suppress(ConfigError, SystemExit):  # it asks for help
        args = parsed([verb, *words])
        assert args.verb in _VERBS
        assert isinstance(args.settings, list)


@FUZZ
@given(WORDS)
def test_settings_change_a_run_or_are_refused(words: list[str]) -> None:
    with contextlib.suppress(ConfigError):
        assert isinstance(apply_settings(RunConfig(), words, "vitrail train"), RunConfig)


@FUZZ
@given(FLAG, WORDS)
def test_a_setting_takes_words_from_the_front_alone(flag: str, words: list[str]) -> None:
    rest = [flag, *words]
    try:
        found = take_setting(rest)
    except ConfigError:
        return
    assert isinstance(hint(flag), str)
    if found is None:
        assert rest == [flag, *words]
    else:
        assert found[0] in setting_types()
        assert is_setting(flag.partition("=")[0])
        assert words[len(words) - len(rest) :] == rest


@settings(FUZZ, max_examples=25)
@given(st.data())
def test_a_value_that_is_typed_arrives_and_is_printed_as_it_is_typed(data: st.DataObject) -> None:
    field = data.draw(st.sampled_from(["optim.lr", "optim.betas", "seed", "data.image_size", "data.mean", "data.spec"]))
    value, word = data.draw(
        {
            "optim.lr": st.floats(1e-9, 10).map(lambda x: (x, repr(x))),
            "optim.betas": st.tuples(*[st.floats(0, 0.999)] * 2).map(lambda x: (x, f"{x[0]!r},{x[1]!r}")),
            "seed": st.integers(0, 2**31).map(lambda x: (x, str(x))),
            "data.image_size": st.tuples(*[st.integers(1, 99).map((16).__mul__)] * 2).map(
                lambda x: (x, f"{x[0]}x{x[1]}")
            ),
            "data.mean": st.lists(st.floats(0, 1), min_size=3, max_size=3).map(
                lambda x: (tuple(x), ",".join(map(repr, x)))
            ),
            "data.spec": st.text("abc /-'\"$\\\u00e9x0", min_size=1)
            .filter(lambda x: x[0] != "-")
            .map(lambda x: (x, x)),
        }[field]
    )
    config = apply_settings(RunConfig(), [as_flag(field), word], "vitrail train")
    section, _, name = field.rpartition(".")
    assert getattr(getattr(config, section) if section else config, name) == value
    lines = [line.strip() for line in settings_help(config) if line.startswith("  --")]
    words = [word for line in lines for word in shlex.split(line)]
    again = apply_settings(RunConfig(), parsed(["train", *words]).settings, "vitrail train")
    assert again == dataclasses.replace(config, recipe=again.recipe)


@pytest.mark.parametrize("flag", FLAGS)
def test_every_flag_has_a_field_or_several(flag: str) -> None:
    assert is_setting(flag)
    try:
        found = full_name(flag)
    except ConfigError:
        found = "of several sections"
    assert found in {*setting_types(), "of several sections"} or flag.startswith("--no-")
