"""Messages: what, got, expected, what to do; and the exit status of each kind."""

from vitrail.errors import ConfigError, ImageError, Interrupted, SaveError, VitrailError, shown


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
