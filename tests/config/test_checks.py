"""Checks that the settings share."""

import pytest

from vitrail.config.checks import distinct_names


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], ()),
        (["b", "a"], ("b", "a")),
        (["crane", "jay", "crane", "crane"], ("crane", "jay", "crane (2)", "crane (3)")),
        (["a", "a (2)", "a"], ("a", "a (2)", "a (2) (2)")),
        (["a", "a", "a (1)"], ("a", "a (1) (1)", "a (1)")),
    ],
)
def test_later_names_get_their_label(names: list[str], expected: tuple[str, ...]) -> None:
    assert distinct_names(names) == expected
    assert len(set(expected)) == len(names)
