"""The figures of the documents are those of bench/results, and both READMEs state the same ones."""

import json
import re
import statistics
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench" / "results"


def _result(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def _text(document: str) -> str:
    """A document, with figures as the English ones write them: Chinese has "79.7% ± 0.5"."""
    return re.sub(r"(?<=\d)%", " %", (ROOT / document).read_text(encoding="utf-8")).replace("±", "+-")


def _row(document: str, *words: str, end: str = "|") -> str:
    """The one line of a table that has all these words, and this end."""
    (row,) = [
        line for line in _text(document).splitlines() if line.endswith(end) and all(word in line for word in words)
    ]
    return row


@pytest.mark.parametrize("recipe", ["cifar10-cpu", "cifar10-cpu-conv", "cifar10-cpu-hour"])
@pytest.mark.parametrize("document", ["README.md", "README.zh-CN.md", "docs/bench.md"])
def test_accuracies_are_those_of_the_seeds(document: str, recipe: str) -> None:
    seeds = _result(f"{recipe}-seeds")["seeds"]
    accuracies = [100 * seed["num_correct"] / seed["num_examples"] for seed in seeds]
    minutes = [seed["train_seconds"] / 60 for seed in seeds if seed.get("threads", 2) == 2]
    spread = f" +- {statistics.stdev(accuracies):.2f}" if len(seeds) > 1 else ""
    row = _row(document, f"{recipe}`", " %")
    assert f"{statistics.mean(accuracies):.2f} %{spread}" in row
    assert len(seeds) == {"cifar10-cpu": 5, "cifar10-cpu-conv": 3, "cifar10-cpu-hour": 1}[recipe]
    if document == "docs/bench.md":
        assert f"({', '.join(f'{value:.2f}' for value in accuracies)})" in row
        times = sorted({f"{value:.1f}" for value in (min(minutes), max(minutes))}, key=float)
        assert f"{' to '.join(times)} min" in row
    else:
        assert re.search(rf"\b{round(statistics.mean(minutes))} (min|分钟)", row)


def _ratios() -> list[tuple[str, list[str]]]:
    """Rows by the script that they name and a word of theirs, and the figures that have to be in them."""
    step, inference = _result("step")["cases"], _result("inference")
    inputs, folder = _result("input")["cases"], _result("folder")["contenders"]
    vitrail = [inference[batch]["contenders"] for batch in ("batch 1", "batch 8")]
    costs, transfer = _result("checkpoint-cost")["costs"], _result("transfer-cifar100-conv")
    default = [engines[f"ours {engine}"]["ratio"] for engines in vitrail for engine in ("onnx", "openvino")]
    int8 = [engines["ours int8"]["ratio"] for engines in vitrail]
    merged = [engines["ours int8, merge 16"]["ratio"] for engines in vitrail]
    saving = statistics.median(costs["ours, asynchronous"]) / statistics.median(costs["torch.save"])
    folders = (("cold, exact", 1), ("cold, fast", 1), ("packed", 0))
    startup = "vitrail predict, one image / transformers pipeline, one image"
    crop = inputs["small"]["one process"]["contenders"]["vitrail"]["ratio"]
    return [
        ("step.py` | ViT-B/16", [f"{step['b16']['contenders']['vitrail']['ratio']:.2f}"]),
        ("step.py` | small ViT", [f"{step['small6']['contenders']['vitrail']['ratio']:.2f}"]),
        ("inference.py` | default engine", [f"{min(default):.1f}", f"{max(default):.1f}"]),
        ("inference.py` | int8", [f"{value:.1f}" for value in (*int8, *merged)]),
        (
            "input.py` | crop",
            [f"{inputs['reference']['one process']['contenders']['vitrail']['ratio']:.1f}", f"{crop:.0f}"],
        ),
        ("folder.py` | packed", [f"{folder[name]['ratio']:.{digits}f}" for name, digits in folders]),
        ("startup.py` | predict", [f"{_result('startup')['ratios'][startup]:.2f}"]),
        ("checkpoint.py` | torch.save", [f"{saving:.2f}"]),
        ("transfer.py` | from scratch", [f"+{100 * transfer['gain_over_scratch']:.1f}"]),
    ]


@pytest.mark.parametrize("document", ["README.md", "docs/bench.md"])
@pytest.mark.parametrize(("row", "figures"), _ratios())
def test_ratios_are_those_of_the_scripts(document: str, row: str, figures: list[str]) -> None:
    script, word = row.split(" | ")
    numbers = re.findall(r"\+?\d+(?:\.\d+)?", _row(document, word, end=f" `bench/{script} |"))
    assert [figure for figure in figures if figure not in numbers] == []


def test_fine_tuning_a_real_vit_is_as_measured() -> None:
    for run in _result("dinov2_cifar")["runs"]:
        row = _row("docs/finetune.md", f"`{run['recipe']}`", "GiB").replace("*", "")
        memory = run["peak_mib"] / 1024
        assert [cell.strip() for cell in row.strip("|").split("|")][1:] == [
            str(run["epochs"]),
            f"{100 * run['accuracy']:.2f} %",
            f"{run['minutes']:.1f}",
            f"{memory:.1f} GiB",
        ]


def test_what_a_teacher_brings_is_as_measured() -> None:
    runs = _result("distillation-cifar10-cpu")["runs"]
    rows = {"plain": "without a teacher | 7", "distilled": "with the teacher | 7", "control": "as long as with it | 10"}
    for name, words in rows.items():
        accuracies = [100 * run["accuracy"] for run in runs[name]]
        row = _row("docs/training.md", words)
        assert f"{statistics.mean(accuracies):.2f} +- {statistics.stdev(accuracies):.2f} %" in row
        assert f" {statistics.mean(run['cpu_seconds'] for run in runs[name]):.0f}" in row


def test_the_readmes_state_the_same_figures_and_commands() -> None:
    english, chinese = _text("README.md"), _text("README.zh-CN.md")
    tutorial = _text("docs/from-the-tutorial.md")
    figures = re.findall(r"\d+\.\d+ %", chinese)
    assert len(figures) >= 5
    assert [figure for figure in figures if figure not in english] == []
    commands = re.findall(r"^vitrail [a-z][^#\n]*[^#\n ]", chinese, re.MULTILINE)
    assert len(commands) >= 7
    assert [command for command in commands if command not in english + tutorial] == []
    assert "README.zh-CN.md" in english
    assert "(README.md)" in chinese


def test_the_chinese_page_of_the_tutorial_states_the_same() -> None:
    english, chinese = _text("docs/from-the-tutorial.md"), _text("docs/from-the-tutorial.zh-CN.md")

    def said(text: str) -> list[list[str]]:
        """The decimals of a page, its code blocks without their comments, and how many cells each table row has."""
        blocks = re.findall(r"^```.*?^```", text, re.MULTILINE | re.DOTALL)
        rows = re.findall(r"^\|.*\|$", text, re.MULTILINE)
        decimals = sorted(re.findall(r"\d+\.\d+", text))
        return [decimals, [re.sub(r" +# .*", "", block) for block in blocks], [str(row.count("|")) for row in rows]]

    assert said(chinese) == said(english)
    assert "(from-the-tutorial.zh-CN.md)" in english
    assert "(from-the-tutorial.md)" in chinese
    assert "(docs/from-the-tutorial.zh-CN.md)" in _text("README.zh-CN.md")
