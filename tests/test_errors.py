"""Messages: what, got, expected, what to do; and the exit status of each kind."""

import os
import shlex
import subprocess
import sys

from vitrail.errors import (
    ConfigError,
    ImageError,
    Interrupted,
    SaveError,
    VitrailError,
    install_hint,
    nearest,
    shell_word,
    shown,
)


def test_a_message_has_its_parts_in_order() -> None:
    error = VitrailError("Field x is wrong.", got=5, expected="at most 3", do="Use --x 3.")
    assert str(error) == "Field x is wrong.\n  Got 5; expected at most 3.\n  Use --x 3."


def test_parts_that_are_not_given_leave_no_trace() -> None:
    assert str(VitrailError("Wrong.")) == "Wrong."
    assert str(VitrailError("Wrong.", expected="right")) == "Wrong.\n  Expected right."


def test_exit_statuses() -> None:
    assert ConfigError("x").exit_status == 2
    assert SaveError("x").exit_status == 74
    assert Interrupted("x", signal_number=2, do="y").exit_status == 130
    assert Interrupted("x", signal_number=15, do="y").exit_status == 143


def test_the_command_line_parser_takes_a_config_error_for_a_value_error() -> None:
    assert isinstance(ConfigError("x"), ValueError)


def test_an_image_error_names_the_file() -> None:
    assert str(ImageError("truncated", "cats/1.jpg")) == "cats/1.jpg: truncated"


def test_a_strangers_text_forges_no_line_and_colours_no_terminal() -> None:
    assert shown("x\nvitrail: all is well.png") == "x\\nvitrail: all is well.png"
    assert shown("\x1b[31mred\u202egnp.exe\udcff") == "\\x1b[31mred\\u202egnp.exe\\udcff"
    assert shown("Zoë, 猫") == "Zoë, 猫"


def test_of_a_long_text_the_middle_is_left_out() -> None:
    text = shown("a" * 10_000_000 + "z", most=20)
    assert text == "a" * 11 + "..." + "a" * 5 + "z"
    assert shown("a" * 20, most=20) == "a" * 20


def test_spaces_of_every_language_stay() -> None:
    assert shown("9.41\u202fAM\u3000\u00a0x") == "9.41\u202fAM\u3000\u00a0x"
    assert shown("a\u2028b\u200bc\x85\ttab") == "a\\u2028b\\u200bc\\x85\\ttab"


def test_a_message_has_no_line_breaks_but_its_own() -> None:
    error = VitrailError("a\nb", got="c\nd", expected=ValueError("two\n  lines"), do="e\nf", listed=["g\nh", "i"])
    assert str(error) == "a\\nb\n    g\\nh\n    i\n  Got c\\nd; expected two lines.\n  e\\nf"
    assert error.got == "c\nd"
    assert str(ImageError("bad\nheader", "x\ny.png")) == "x\\ny.png: bad\\nheader"
    assert ImageError("truncated", "x\ny.png").name == "x\ny.png"
    assert len(str(VitrailError("x" * 10**7, got="y" * 10**7))) < 5000


def test_a_word_for_the_shell_means_what_it_meant() -> None:
    for name in ("runs/a b", "it's", "x\ny'z\\\x1b", "caf\u00e9\n", "byte\udcff", "$HOME", "\u202ex"):
        word = shell_word(name)
        assert word.isprintable()
        told = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, check=True).stdout
        assert os.fsdecode(told) == name


def test_what_is_missing_is_installed_where_this_runs() -> None:
    command = install_hint("onnx", "onnxruntime").removeprefix("Install it with: ")
    assert shlex.split(command) == [sys.executable, "-m", "pip", "install", "onnx", "onnxruntime"]


def test_the_nearest_name_of_a_very_long_one_takes_no_time() -> None:
    assert nearest("optmi", ["optim", "data"]) == "optim"
    assert nearest("zzz", ["optim", "data"]) == ""
    assert nearest("optim" * 10**6, ["optim", "data"]) == ""


def test_a_misspelling_is_found_among_very_many_names() -> None:
    names = [f"class {i:05}" for i in range(20_000)]
    assert nearest("clas 12345", names) == "class 12345"
    assert nearest("lass 12345", names) == "class 12345"
    assert nearest("unlike", names) == ""
    # Names whose comparison takes long: equal letters in equal number, in another order.
    assert isinstance(nearest("ba" * 5000, ["ab" * 90 + f"{i:05}" for i in range(20_000)]), str)
