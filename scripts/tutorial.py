"""Make the notebook of docs/tutorial.md, and run the tutorial. Run by `make docs`.

    python scripts/tutorial.py            write docs/tutorial.ipynb
    python scripts/tutorial.py --run      run it too, and renew what it prints and draws in docs/tutorial.md
    python scripts/tutorial.py --check    run it; exit status 1 where the notebook, what is printed (numbers aside)
                                          or the number of pictures differ

The Markdown file is the source. A block of Python is a cell; a block of text right after it is what the cell printed,
and a picture after it is what it drew, so neither is a part of the notebook.
"""

import contextlib
import io
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "docs" / "tutorial.md"
NOTEBOOK = SOURCE.with_suffix(".ipynb")
CELL = re.compile(
    r"^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<printed>.*?)^```\n)?(?P<pictures>(?:\n!\[[^\]]*\]\([^)]+\)\n)*)",
    re.MULTILINE | re.DOTALL,
)
TARGET = re.compile(r"\]\(([^)]+)\)")


def notebook(text: str) -> str:
    """The tutorial as a notebook without outputs, in the format that Jupyter reads (nbformat 4.5)."""
    cells: list[dict[str, Any]] = []

    def add(kind: str, source: str) -> None:
        if source := source.strip("\n"):
            more = {"execution_count": None, "outputs": []} if kind == "code" else {}
            lines = source.splitlines(keepends=True)
            cells.append({"cell_type": kind, "id": f"cell-{len(cells)}", "metadata": {}, "source": lines, **more})

    end = 0
    for cell in CELL.finditer(text):
        add("markdown", text[end : cell.start()])
        add("code", cell["code"])
        end = cell.end()
    add("markdown", text[end:])
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    whole = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1) + "\n"


def run(text: str, pictures: Path) -> str:
    """Run every cell in one go; what each printed and drew stands after it in the text that is returned.

    Args:
        pictures: where the files are written whose names stand in the text.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    variables: dict[str, Any] = {"__name__": "__main__"}

    def renewed(cell: re.Match[str]) -> str:
        names, printed, began = TARGET.findall(cell["pictures"]), io.StringIO(), time.perf_counter()
        drawn: list[str] = []

        def show() -> None:
            if len(drawn) == len(names):
                raise SystemExit(f"A picture is drawn and none shown in {SOURCE.name}: {cell['code']}")
            drawn.append(names[len(drawn)])
            plt.savefig(pictures / Path(drawn[-1]).name, dpi=110, metadata={"Software": None})
            plt.close()

        plt.show = show
        with contextlib.redirect_stdout(printed):
            exec(compile(cell["code"], SOURCE.name, "exec"), variables)
        print(f"{time.perf_counter() - began:6.1f} s  {cell['code'].strip().splitlines()[-1][:90]}", file=sys.stderr)
        if drawn != names:
            raise SystemExit(f"{', '.join(names[len(drawn) :])}: not drawn by the cell before it")
        output = f"\n```text\n{printed.getvalue()}```\n" if printed.getvalue() else ""
        return f"```python\n{cell['code']}```\n{output}{cell['pictures']}"

    return CELL.sub(renewed, text)


def main() -> int:
    text = SOURCE.read_text(encoding="utf-8")
    if "--check" in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            ran = run(text, Path(folder))
            os.chdir(ROOT)
        for name, same in (
            (NOTEBOOK.name, NOTEBOOK.read_text(encoding="utf-8") == notebook(text)),
            (SOURCE.name, re.sub(r"[\d.]+", "0", ran) == re.sub(r"[\d.]+", "0", text)),
        ):
            if not same:
                print(f"docs/{name} is not what the tutorial gives: run scripts/tutorial.py --run")
                return 1
        return 0
    if "--run" in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            text = run(text, SOURCE.parent / "images")
            os.chdir(ROOT)
        SOURCE.write_text(text, encoding="utf-8")
    NOTEBOOK.write_text(notebook(text), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
