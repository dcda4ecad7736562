"""JSON that nobody thought of: what is read comes back, and what is refused ends in one kind of error."""

import contextlib
import json
import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vitrail.config import Preprocessing, RunConfig, ViTConfig, from_json, to_json
from vitrail.errors import ConfigError
from vitrail.reading import parsed_json

FUZZ = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
LEAF = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=9))
JSON = st.recursive(LEAF, lambda x: st.lists(x, max_size=4) | st.dictionaries(st.text(max_size=9), x, max_size=4))
CONFIGS = [RunConfig(), Preprocessing(image_size=(8, 8), decode_size=(8, 8)), ViTConfig()]


@FUZZ
@given(JSON)
def test_a_value_comes_back(value: Any) -> None:
    assert parsed_json(json.dumps(value)) == value
    assert parsed_json(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass").decode("utf-8")) == value


@FUZZ
@given(
    st.one_of(st.binary(max_size=60), st.text(max_size=60), st.text('{}[]",:0123456789.eE+-truefalsn \\u', max_size=40))
)
def test_a_text_is_read_or_refused(raw: bytes | str) -> None:
    reason = ""
    try:
        value = parsed_json(raw, finite=True)
    except ValueError as error:
        value, reason = None, str(error)
    assert len(reason) < 200
    assert json.loads(json.dumps(value, allow_nan=False)) == value


@FUZZ
@given(st.floats())
def test_numbers_of_ours_are_finite(number: float) -> None:
    if math.isfinite(number):
        assert parsed_json(json.dumps([number]), finite=True) == [number]
    else:
        with pytest.raises(ValueError, match="not a finite number"):
            parsed_json(json.dumps([number]), finite=True)


@FUZZ
@given(st.text(max_size=5), JSON, JSON)
def test_a_name_twice_is_refused(name: str, first: Any, second: Any) -> None:
    text = f"{{{json.dumps(name)}: {json.dumps(first)}, {json.dumps(name)}: {json.dumps(second)}}}"
    with pytest.raises(ValueError, match="is there twice"):
        parsed_json(text)


@FUZZ
@given(st.sampled_from(CONFIGS), JSON)
def test_settings_of_any_value_are_refused(config: Any, value: Any) -> None:
    with pytest.raises(ConfigError):
        from_json(type(config), value)


@FUZZ
@given(st.data())
def test_one_value_changed_is_taken_whole_or_refused(data: st.DataObject) -> None:
    config = data.draw(st.sampled_from(CONFIGS))
    values = part = to_json(config)
    name = data.draw(st.sampled_from(list(part)))
    while isinstance(part[name], dict) and part[name] and data.draw(st.booleans()):
        part = part[name]
        name = data.draw(st.sampled_from(list(part)))
    part[name] = data.draw(JSON)
    with contextlib.suppress(ConfigError):
        found = from_json(type(config), parsed_json(json.dumps(values)))
        assert from_json(type(config), parsed_json(json.dumps(to_json(found)))) == found
