"""Calls that the package makes in one place only, or nowhere. Run by `make check`.

    python scripts/check_calls.py [FOLDER]

* Writing, renaming, deleting and creating directories: only in fsio.py, so that a test can fail any of them.
* Opening images: only in data/decode.py, so that training, evaluation and prediction see the same pixels.
* Writing for people: only in terminal.py, which escapes what a stranger's text would do to a terminal.
* Unpickling, `torch.load` without `weights_only=True`, `eval`, `exec`, `extractall`: nowhere.

In: the Python files below FOLDER (src/vitrail). Out: `file:line: call: why`; exit status 1 if there is one.
It reads syntax and cannot know the type of a value: `image.save(path)` passes unseen. An exception is a line
`"file: call" = "reason"` in pyproject.toml, [tool.vitrail.calls.exceptions].
"""

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent

WRITES = "only fsio.py writes, renames, deletes or creates directories"
DECODES = "only data/decode.py opens images"
SHOWS = "only terminal.py writes on the terminal"
TITLED = "the title of a bar goes through vitrail.errors.shown"
UNSAFE = "it runs or trusts what a file says"
HOMES = {WRITES: "fsio.py", DECODES: "data/decode.py", SHOWS: "terminal.py"}

# A name that ends in a dot stands for everything below it.
WRITING_FUNCTIONS = """
    os.replace os.rename os.renames os.remove os.unlink os.rmdir os.removedirs os.mkdir os.makedirs os.open os.write
    os.truncate os.ftruncate os.symlink os.link os.fsync os.fdatasync os.chmod shutil. tempfile.
    torch.save torch.jit.save safetensors.torch.save_file safetensors.torch.save_model safetensors.numpy.save_file
    numpy.save numpy.savez numpy.savez_compressed numpy.savetxt urllib.request.urlretrieve
"""
SHOWING_FUNCTIONS = "print sys.stdout.write sys.stderr.write traceback.print_exc warnings.warn"
UNSAFE_FUNCTIONS = """
    eval exec pickle. cPickle. dill. cloudpickle. marshal. shelve. joblib.load yaml.load yaml.unsafe_load
"""
WRITING_METHODS = "write_text write_bytes mkdir unlink rename rmdir touch symlink_to hardlink_to tofile"
FUNCTIONS = {
    **dict.fromkeys(WRITING_FUNCTIONS.split(), WRITES),
    **dict.fromkeys(UNSAFE_FUNCTIONS.split(), UNSAFE),
    **dict.fromkeys(SHOWING_FUNCTIONS.split(), SHOWS),
    "PIL.Image.open": DECODES,
}
METHODS = {**dict.fromkeys(WRITING_METHODS.split(), WRITES), "extractall": UNSAFE}
# Functions with a mode: name, position of the mode, whether leaving it out reads.
MODES = {
    "open": (1, True),
    "io.open": (1, True),
    "gzip.open": (1, True),
    "bz2.open": (1, True),
    "lzma.open": (1, True),
    "tarfile.open": (1, True),
    "zipfile.ZipFile": (1, True),
    "numpy.memmap": (2, False),
    "numpy.lib.format.open_memmap": (1, False),
}


class Violation(NamedTuple):
    """A call that stands where it should not."""

    line: int
    call: str
    why: str


def violations(source: str, name: str) -> Iterator[Violation]:
    """Yield what one file should not call.

    Args:
        source: text of the file.
        name: its path in the package, as "data/decode.py".
    """
    tree = ast.parse(source)
    origins = imported_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            call = dotted(node.func, origins)
            why = reason(node, call)
            if why and HOMES.get(why) != name:
                yield Violation(node.lineno, call, why)


def reason(node: ast.Call, call: str) -> str:
    """Say why a call is not free to stand anywhere; empty when it is."""
    for function, why in FUNCTIONS.items():
        if call == function or (function.endswith(".") and call.startswith(function)):
            return why
    if call == "tqdm.tqdm":
        title = keyword(node, "desc")
        return "" if title is None or "shown" in {n.id for n in ast.walk(title) if isinstance(n, ast.Name)} else TITLED
    if call == "torch.load":
        return "" if constant(keyword(node, "weights_only")) is True else UNSAFE
    if call == "numpy.load":
        return UNSAFE if keyword(node, "allow_pickle") is not None else ""
    if call in MODES:
        position, reads = MODES[call]
        return WRITES if may_write(argument(node, position, "mode"), reads) else ""
    if isinstance(node.func, ast.Attribute) and not call.startswith("vitrail."):
        method = node.func.attr
        if method == "open" and call != "PIL.Image.open":  # Path.open(mode)
            return WRITES if may_write(argument(node, 0, "mode"), True) else ""
        if method == "replace" and len(node.args) == 1 and not node.keywords:  # Path.replace; str.replace takes two
            return WRITES
        return METHODS.get(method, "")
    return ""


def may_write(mode: ast.expr | None, reads_without: bool) -> bool:
    """Whether a mode argument opens for writing; one that is computed counts as doing so."""
    if mode is None:
        return not reads_without
    value = constant(mode)
    return not isinstance(value, str) or any(letter in value for letter in "wax+")


def imported_names(tree: ast.AST) -> dict[str, str]:
    """Map each imported local name to where it comes from: `np` to `numpy`, `replace` to `os.replace`."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update({a.asname: a.name for a in node.names if a.asname})
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update({a.asname or a.name: f"{node.module}.{a.name}" for a in node.names})
    return names


def dotted(function: ast.expr, origins: dict[str, str]) -> str:
    """The full name of a called function, as far as the imports tell: `Image.open` is `PIL.Image.open`."""
    if isinstance(function, ast.Name):
        return origins.get(function.id, function.id)
    if isinstance(function, ast.Attribute):
        return f"{dotted(function.value, origins)}.{function.attr}"
    return "(...)"


def argument(node: ast.Call, position: int, name: str) -> ast.expr | None:
    """An argument by its position or its keyword; None when it is left out."""
    return node.args[position] if len(node.args) > position else keyword(node, name)


def keyword(node: ast.Call, name: str) -> ast.expr | None:
    """The value of a keyword argument; None when it is left out."""
    return next((k.value for k in node.keywords if k.arg == name), None)


def constant(node: ast.expr | None) -> object:
    """The value of a literal; None for anything else."""
    return node.value if isinstance(node, ast.Constant) else None


def main(package: Path) -> int:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    unused: dict[str, str] = dict(tool["vitrail"]["calls"]["exceptions"])
    used: set[str] = set()
    failed = False
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).as_posix()
        for line, call, why in violations(path.read_text(encoding="utf-8"), name):
            exception = f"{name}: {call}"
            if exception in unused:
                used.add(exception)
                continue
            failed = True
            print(f"{name}:{line}: {call}: {why}")
    for exception in unused.keys() - used:
        print(f"{exception}: no longer called; delete its exception from pyproject.toml")
    return 1 if failed or unused.keys() - used else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "src" / "vitrail"))
