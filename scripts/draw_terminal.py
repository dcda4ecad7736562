"""Draw the terminal session of README.md: run the commands of `make demo`, and set what they print as an SVG.

    .venv/bin/python scripts/draw_terminal.py docs/images/terminal.svg          about a minute

Nothing is written by hand: the lines are those that the commands print, standard output and error together. The first
three lines on epochs and the last one are shown; progress lines between them, the line on the engine, and what to try
next are left out.
"""

import re
import subprocess
import sys
import tempfile
import textwrap
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SESSION = (
    "vitrail train digits --run runs/demo",
    "python examples/demo_images.py runs/demo/images",
    "vitrail predict runs/demo runs/demo/images",
)
COLUMNS, FONT, LINE, MARGIN, BAR = 104, 13, 18, 18, 34
WIDTH = round(COLUMNS * FONT * 0.602) + 2 * MARGIN  # 0.602: what a character of a monospaced font takes of its size
COLOURS = {"command": "#7ee787", "output": "#d0d7de", "omitted": "#8b949e"}


def printed(command: str, folder: Path) -> list[str]:
    """What a command prints when it runs in `folder`."""
    words = command.replace("examples/", f"{ROOT}/examples/").split()
    program = [sys.executable, "-m", "vitrail"] if words[0] == "vitrail" else [sys.executable]
    done = subprocess.run(
        [*program, *words[1:]], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True
    )
    text = done.stdout.partition("\nTry next:")[0].rstrip()
    return [line for line in text.splitlines() if not re.match(r"\d+ of \d+ images|vitrail: engine", line)]


def shortened(lines: list[str]) -> list[tuple[str, str]]:
    """Lines with the colour each is drawn in; of the epochs, the first three and the last."""
    epochs = [line for line in lines if line.startswith("epoch ")]
    shown: list[tuple[str, str]] = []
    for line in lines:
        if line in epochs[3:-1]:
            if line == epochs[3]:
                shown.append(("omitted", f"... {len(epochs) - 4} more epochs ..."))
            continue
        wrapped = textwrap.wrap(line, COLUMNS, subsequent_indent=" " * 4) or [""]
        shown += [("output", part) for part in wrapped]
    return shown


def svg(lines: list[tuple[str, str]]) -> str:
    """A window with a bar of three dots, and the lines in it."""
    height = BAR + LINE * len(lines) + MARGIN
    dots = "".join(f'<circle cx="{20 + 18 * i}" cy="17" r="5.5" fill="#484f58"/>' for i in range(3))
    text = ""
    for i, (kind, line) in enumerate(lines):
        shown = escape(line).replace(" ", "&#160;")
        text += f'<text x="{MARGIN}" y="{BAR + LINE * (i + 1) - 5}" fill="{COLOURS[kind]}">{shown}</text>\n'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}">\n'
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#0d1117"/>{dots}\n'
        f"<g font-family=\"ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace\" "
        f'font-size="{FONT}">\n{text}</g>\n</svg>\n'
    )


def main(target: Path) -> None:
    lines: list[tuple[str, str]] = []
    with tempfile.TemporaryDirectory() as folder:
        for command in SESSION:
            lines += [("command", f"$ {command}"), *shortened(printed(command, Path(folder))), ("output", "")]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(svg(lines[:-1]), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
