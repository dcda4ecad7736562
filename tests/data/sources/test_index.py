"""What a class that is not known is answered with."""

import pytest

from vitrail.data.sources import class_index
from vitrail.data.sources.labels import MAX_CLASSES, MAX_NAME, label_indices, names_of
from vitrail.errors import DataError


def test_a_class_that_is_there() -> None:
    assert class_index("cat", ["bird", "cat"], "test") == 1


def test_only_a_name_that_is_nearly_the_same_is_suggested() -> None:
    with pytest.raises(DataError) as absent:
        class_index("bird", ["cat", "lizard"], "test/bird")
    assert "expected one of 'cat', 'lizard'." in str(absent.value)
    assert "Did you mean" not in str(absent.value)
    with pytest.raises(DataError, match="Did you mean 'lizard'"):
        class_index("lizzard", ["cat", "lizard"], "test/lizzard")


def test_of_many_classes_the_first_are_listed() -> None:
    with pytest.raises(DataError, match="'c9', and 990 more"):
        class_index("x", [f"c{i}" for i in range(1000)], "test/x")


def test_many_classes_are_found_without_a_search_of_a_list() -> None:
    classes = tuple(f"class {number}" for number in range(60_000))
    assert label_indices(classes, None, classes, "x").tolist() == list(range(60_000))


def test_more_classes_or_longer_names_than_a_classifier_has_are_refused() -> None:
    for labels in (range(MAX_CLASSES + 1), ["x" * (MAX_NAME + 1)]):
        with pytest.raises(DataError, match=r"too many|too long"):
            names_of(labels)
    assert len(names_of(range(MAX_CLASSES))) == MAX_CLASSES


def test_half_of_a_character_is_no_name() -> None:
    with pytest.raises(DataError, match="not text(.|\n)*ud800"):
        names_of(["a", "\ud800"])
    assert names_of([b"\xff".decode(errors="surrogateescape")])  # a file's name that is no Unicode
