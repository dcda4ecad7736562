"""Contenders take turns, and a ratio is one within a round."""

import os
import time

import pytest

from vitrail.bench import Comparison, Figures, compare, in_fresh_process, peak_memory_mib


def test_contenders_take_turns_and_the_order_turns_with_the_rounds() -> None:
    turns: list[tuple[str, int]] = []
    counts = {"a": 0, "b": 0, "c": 0}

    def work(name: str) -> int:
        counts[name] += 1
        return 5

    works = {name: (lambda name=name: work(name)) for name in counts}
    found = compare(
        works, unit="images", rounds=3, seconds=0.0, on_turn=lambda name, number: turns.append((name, number))
    )
    assert "".join(name for name, _ in turns) == "abcbcacab"
    assert set(counts.values()) == {4}, "once untimed, once a round when a turn has no least length"
    assert all(len(figures.rates) == 3 for figures in found.figures.values())


def test_a_turn_lasts_as_long_as_asked_and_counts_everything_done(monkeypatch: pytest.MonkeyPatch) -> None:
    now, times = 0.0, 0
    monkeypatch.setattr(time, "perf_counter", lambda: now)

    def work() -> int:
        nonlocal now, times
        now, times = now + 0.25, times + 1
        return 10

    found = compare({"a": work}, unit="images", rounds=1, seconds=1.0)
    assert found.figures["a"].median == 40
    assert times == 5, "once untimed, four times in a turn of a second"


def test_drift_that_hits_both_alike_cancels_in_the_ratio() -> None:
    drift = [1.0, 0.5, 2.0, 0.25, 1.5]
    both = {"a": Figures(tuple(30 * d for d in drift)), "b": Figures(tuple(10 * d for d in drift))}
    found = Comparison("images", both)
    assert found.ratio("a", "b") == pytest.approx((3, 3, 3))
    assert found.fastest(["a", "b"]) == "a"
    assert "| a | 30 | 7.5 to 60 | 3.00 | 3.00 to 3.00 |" in found.table("b")
    assert found.to_json("b")["contenders"]["a"]["rates"][1] == 15


def test_noise_widens_the_interval_beyond_one() -> None:
    found = Comparison("steps", {"a": Figures((9, 12, 10, 8, 13)), "b": Figures((10, 10, 10, 10, 10))})
    ratio, low, high = found.ratio("a", "b")
    assert ratio == 1.0
    assert low < 1 < high


def test_a_fresh_process_answers_with_json_or_says_why_not() -> None:
    code = """
import json, sys
from vitrail.bench import peak_memory_mib
print(json.dumps({"x": sys.argv[1], "m": peak_memory_mib()}))
"""
    held = bytearray(os.urandom(1) * (600 << 20))  # whose size the new process does not begin with
    found, seconds = in_fresh_process(code, "y")
    assert found["x"] == "y"
    assert 10 < found["m"] < len(held) >> 20 < peak_memory_mib()
    assert seconds > 0.01
    with pytest.raises(RuntimeError, match=r"(?s)exit status 1.*no such thing"):
        in_fresh_process("raise ValueError('no such thing')")
