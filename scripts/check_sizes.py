"""What has outgrown its room: long files, long functions, crowded folders. Run by `make check`.

    python scripts/check_sizes.py [FOLDER]

In: the Python files below FOLDER (src/vitrail) and the limits in pyproject.toml, [tool.vitrail.sizes].
Out: one line for each excess; exit status 1 unless each has an exception there, with its reason.
"""

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def excesses(package: Path, limits: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (what, how large) for everything above its limit.

    Args:
        package: folder that is searched.
        limits: file_lines, function_lines and room_files.
    """
    folders: dict[Path, int] = {}
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).as_posix()
        source = path.read_text(encoding="utf-8")
        folders[path.parent] = folders.get(path.parent, 0) + 1
        num_lines = len(source.splitlines())
        if num_lines > limits["file_lines"]:
            yield name, f"{num_lines} lines, limit {limits['file_lines']}"
        for function, length in functions(ast.parse(source)):
            if length > limits["function_lines"]:
                yield f"{name}:{function}", f"{length} lines, limit {limits['function_lines']}"
    for folder, num_files in folders.items():
        if num_files > limits["room_files"]:
            yield f"{folder.relative_to(package).as_posix()}/", f"{num_files} files, limit {limits['room_files']}"


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Yield (qualified name, number of lines) of each function, nested ones too; docstring and decorators count."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            yield prefix + node.name, (node.end_lineno or first) - first + 1
        name = (
            f"{prefix}{node.name}."
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            else prefix
        )
        yield from functions(node, name)


def main(package: Path) -> int:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["vitrail"]["sizes"]
    allowed: dict[str, str] = dict(settings["exceptions"])
    failed = False
    for what, size in excesses(package, settings):
        reason = allowed.pop(what, "")
        failed = failed or not reason
        print(f"{what}: {size}" + (f" (allowed: {reason})" if reason else ""))
    for what in allowed:
        print(f"{what}: no longer too large; delete its exception from pyproject.toml")
    return 1 if failed or allowed else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "src" / "vitrail"))
