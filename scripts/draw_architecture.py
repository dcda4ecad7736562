"""Draw which part of the package imports which, from the code itself: docs/images/architecture.svg. Run by `make docs`.

    python scripts/draw_architecture.py [--check]

In: the imports in src/vitrail, also those inside functions, and the layers in pyproject.toml that import-linter checks.
Out: the picture; with --check nothing is written, and the exit status is 1 where the picture there is another one.

A box is a part of the package, with the first words of its docstring. An arrow means "imports". Where a longer way
leads to the same box the arrow is left out; single files that everything stands on share the box at the bottom.
"""

import ast
import itertools
import re
import sys
import textwrap
import tomllib
from collections.abc import Sequence
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "vitrail"
PICTURE = ROOT / "docs" / "images" / "architecture.svg"
BOX_WIDTH, BOX_HEIGHT, ROW, GAP, MARGIN = 196, 60, 100, 24, 20

Edge = tuple[str, str]


def layers() -> list[list[str]]:
    """The parts of the package from top to bottom, as import-linter checks them, those that are there."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    rows = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    named = [[re.sub(r"[() ]", "", name) for name in row.split("|")] for row in rows]
    there = [[name for name in row if source_of(name).exists()] for row in named]
    return [row for row in there if row]


def source_of(name: str) -> Path:
    """The file that holds a part's docstring."""
    file = PACKAGE / f"{name}.py"
    return file if file.exists() else PACKAGE / name / "__init__.py"


def imports(names: Sequence[str]) -> set[Edge]:
    """Every (importer, imported) among the parts, as the code says it."""
    found: set[Edge] = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        importer = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules: list[str] = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            parts = [module.split(".")[1] for module in modules if module.startswith("vitrail.")]
            found |= {(importer, part) for part in parts if part != importer}
    return {(a, b) for a, b in found if a in names and b in names}


def reduced(edges: set[Edge]) -> set[Edge]:
    """The edges without those that a longer way replaces."""
    below: dict[str, set[str]] = {}

    def reach(name: str) -> set[str]:
        if name not in below:
            direct = {b for a, b in edges if a == name}
            below[name] = direct.union(*map(reach, direct))
        return below[name]

    return {(a, b) for a, b in edges if not any(b in reach(c) for d, c in edges if d == a and c != b)}


def first_words(name: str) -> str:
    """What a part is, by the first words of its docstring."""
    text = ast.get_docstring(ast.parse(source_of(name).read_text(encoding="utf-8"))) or ""
    return re.split(r"[:;.](?:\s|$)", " ".join(text.split()))[0]


def placed(rows: list[list[str]], edges: set[Edge]) -> dict[str, tuple[float, float]]:
    """The middle of each box, so that boxes that belong together are near each other and long arrows have a way."""
    row_of = {name: i for i, row in enumerate(rows) for name in row}
    chains = [[a, *(f"{a}>{b}@{i}" for i in range(row_of[a] + 1, row_of[b])), b] for a, b in sorted(edges)]
    order = [list(row) for row in rows]
    for chain in chains:
        for dummy in chain[1:-1]:
            order[int(dummy.rpartition("@")[2])].append(dummy)
    links: dict[str, list[str]] = {}
    for chain in chains:
        for one, other in itertools.pairwise(chain):
            links.setdefault(one, []).append(other)
            links.setdefault(other, []).append(one)
    x = {name: float(i) * BOX_WIDTH for row in order for i, name in enumerate(row)}
    for turn in range(200):
        for row in order if turn % 2 else reversed(order):
            wanted = {n: sum(x[o] for o in links.get(n, [n])) / len(links.get(n, [n])) for n in row}
            row.sort(key=lambda name: (wanted[name], name))
            x.update(spread([wanted[n] for n in row], row))
    left = min(x[n] - (GAP if "@" in n else BOX_WIDTH) / 2 for n in x) - MARGIN
    return {n: (x[n] - left, MARGIN + BOX_HEIGHT / 2 + ROW * i) for i, row in enumerate(order) for n in row}


def spread(wanted: list[float], row: list[str]) -> dict[str, float]:
    """Places of a row's boxes near the wanted ones, in their order, none over another."""
    widths = [GAP if "@" in name else BOX_WIDTH + GAP for name in row]
    blocks: list[list[float]] = []  # [sum of (wanted - offset), how many, width, first index]
    for i, want in enumerate(wanted):
        blocks.append([want - widths[i] / 2, 1, widths[i], i])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] + blocks[-2][2] > blocks[-1][0] / blocks[-1][1]:
            last = blocks.pop()
            blocks[-1][0] += last[0] - last[1] * blocks[-1][2]
            blocks[-1][1] += last[1]
            blocks[-1][2] += last[2]
    found: dict[str, float] = {}
    for number, block in enumerate(blocks):
        at = block[0] / block[1]
        end = int(blocks[number + 1][3]) if number + 1 < len(blocks) else len(row)
        for i in range(int(block[3]), end):
            found[row[i]] = round(at + widths[i] / 2, 1)
            at += widths[i]
    return found


def drawn() -> str:
    """The picture as SVG."""
    rows = layers()
    names = [name for row in rows for name in row]
    every = imports(names)
    last = max(i for i, row in enumerate(rows) if any((PACKAGE / name).is_dir() for name in row))
    base, shared = "base", [name for row in rows[last + 1 :] for name in row]
    rows = [*rows[: last + 1], [base]]
    folded = {tuple(base if name in shared else name for name in edge) for edge in every}
    edges = reduced({(a, b) for a, b in folded if a != b})
    at = placed(rows, edges)
    width = max(x for name, (x, _) in at.items() if "@" not in name) + BOX_WIDTH / 2 + MARGIN
    width = max(width, *(x + MARGIN for x, _ in at.values()))
    height = 2 * MARGIN + BOX_HEIGHT + ROW * (len(rows) - 1)
    parts = [arrow(edge, at, rows) for edge in sorted(edges)]
    for row in rows[:-1]:
        for name in row:
            to = ", ".join(sorted(b for a, b in every if a == name))
            parts.append(box(name, at[name], BOX_WIDTH, first_words(name), f"{name} imports {to or 'nothing of ours'}"))
    wide = width - 2 * MARGIN
    parts.append(box("shared by all", (width / 2, at[base][1]), wide, ", ".join(shared), "single files"))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
            f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="Helvetica, Arial, sans-serif">',
            "<title>The parts of vitrail, and who imports whom</title>",
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            "orient='auto'>"
            "<path d='M0 0 8 4 0 8z' fill='#5b6b7b'/></marker></defs>",
            '<rect width="100%" height="100%" fill="#ffffff"/>',
            *parts,
            "</svg>\n",
        ]
    )


def arrow(edge: Edge, at: dict[str, tuple[float, float]], rows: list[list[str]]) -> str:
    """A line from the foot of a box to the head of another, along the places kept free for it."""
    row_of = {name: i for i, row in enumerate(rows) for name in row}
    above, below = edge
    way = [at[f"{above}>{below}@{i}"] for i in range(row_of[above] + 1, row_of[below])]
    (x0, y0), (x1, y1) = at[above], at[below]
    if below == rows[-1][0]:  # the box at the bottom is as wide as the picture
        x1 = way[-1][0] if way else x0
    x, y = x0, y0 + BOX_HEIGHT / 2
    path = f"M{x:.1f} {y:.1f}"
    for to_x, middle in way:
        for end in (middle - BOX_HEIGHT / 2, middle + BOX_HEIGHT / 2):
            bend = (y + end) / 2
            path += f" C{x:.1f} {bend:.1f} {to_x:.1f} {bend:.1f} {to_x:.1f} {end:.1f}"
            x, y = to_x, end
    end = y1 - BOX_HEIGHT / 2 - 2
    bend = (y + end) / 2
    path += f" C{x:.1f} {bend:.1f} {x1:.1f} {bend:.1f} {x1:.1f} {end:.1f}"
    return f'<path d="{path}" fill="none" stroke="#5b6b7b" stroke-width="1.3" marker-end="url(#head)"/>'


def box(name: str, middle: tuple[float, float], width: float, words: str, tip: str) -> str:
    """A box with a name and a few words."""
    x, y = middle
    lines = textwrap.wrap(words, int(width / 6), max_lines=2, placeholder=" ...")
    text = "".join(f'<tspan x="{x:.1f}" dy="14">{escape(line)}</tspan>' for line in lines)
    y0 = y - 7 * len(lines) + 5
    return (
        f'<g><title>{escape(tip)}</title><rect x="{x - width / 2:.1f}" y="{y - BOX_HEIGHT / 2:.1f}" '
        f'width="{width:.1f}" height="{BOX_HEIGHT}" rx="6" fill="#eef4fb" stroke="#2f5d8a"/>'
        f'<text x="{x:.1f}" y="{y0:.1f}" text-anchor="middle" font-size="14" font-weight="bold" fill="#1d3550">'
        f"{escape(name)}</text>"
        f'<text y="{y0 + 2:.1f}" text-anchor="middle" font-size="11" fill="#33475b">{text}</text></g>'
    )


def main() -> int:
    picture = drawn()
    if "--check" in sys.argv[1:]:
        return int(not PICTURE.exists() or PICTURE.read_text(encoding="utf-8") != picture)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    PICTURE.write_text(picture, encoding="utf-8")
    print(f"{PICTURE.relative_to(ROOT)}: {picture.count('<g>')} boxes, {picture.count('<path d=') - 1} arrows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
