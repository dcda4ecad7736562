"""Serve a model over HTTP: images in, ranked labels out, and a page to try it.

MODEL is a file that `vitrail export` wrote; a run directory, a model file or other weights are exported first, once.
The server speaks plain HTTP: for TLS, put a proxy in front of it. docs/serving.md describes addresses and answers.
"""

import argparse
import hashlib
import importlib.util
import math
import re
from pathlib import Path
from typing import Any

from vitrail import __version__
from vitrail.cli.answer import Answer
from vitrail.errors import ConfigError, SaveError, install_hint, shell_word, shown
from vitrail.locations import engine_cache
from vitrail.reading import read_regular
from vitrail.terminal import answer_json, say

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}
_LEAST_TOKEN, _LARGEST_TOKEN_FILE = 16, 4096


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what serve takes."""
    parser.add_argument("model", metavar="MODEL", help="an exported file, a run directory, or other weights")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1, this machine)")
    parser.add_argument("--port", type=int, default=8000, help="0: one that is free (default: 8000)")
    parser.add_argument("--name", default="", help="of the model in the answers (default: that of the file)")
    parser.add_argument("--no-page", dest="page", action="store_false", help="without the page at /")
    parser.add_argument("--explain", choices=("auto", "off"), default="auto", help="whether /explain is there")
    parser.add_argument("--log", choices=("text", "json"), default="text", help="form of the lines on standard error")
    work = parser.add_argument_group("work")
    work.add_argument("--threads", type=int, default=0, metavar="N", help="that compute (default: one a core)")
    work.add_argument(
        "--decoders", type=int, default=0, metavar="N", help="processes that decode (default: one a core, at most 4)"
    )
    work.add_argument(
        "--max-batch", type=int, default=0, metavar="N", help="images computed together (default: measured)"
    )
    work.add_argument(
        "--batch-wait", type=_seconds, default=0.0, metavar="S", help="wait for a fuller batch (default: 0)"
    )
    limits = parser.add_argument_group("limits")
    limits.add_argument("--timeout", type=_seconds, default=30.0, metavar="S", help="for an answer (default: 30)")
    limits.add_argument(
        "--max-body", type=_bytes, default=20_000_000, metavar="SIZE", help="of a request (default: 20MB)"
    )
    limits.add_argument(
        "--max-pixels", type=_count, default=50_000_000, metavar="N", help="of an image (default: 50e6)"
    )
    limits.add_argument("--max-images", type=int, default=16, metavar="N", help="of a request (default: 16)")
    limits.add_argument("--max-connections", type=int, default=512, metavar="N", help="at a time (default: 512)")
    limits.add_argument(
        "--queue-seconds", type=_seconds, default=5.0, metavar="S", help="longest wait that is accepted (default: 5)"
    )
    limits.add_argument(
        "--drain", type=_seconds, default=10.0, metavar="S", help="after SIGTERM, for accepted requests (default: 10)"
    )
    limits.add_argument(
        "--drain-delay",
        type=_seconds,
        default=0.0,
        metavar="S",
        help="after SIGTERM, before the port closes (default: 0)",
    )
    access = parser.add_argument_group("who may ask")
    access.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="HOST",
        help="a further name of this server; *: any; may be repeated",
    )
    access.add_argument(
        "--allow-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="a site whose pages may ask, as https://example.com; may be repeated",
    )
    access.add_argument("--token-file", metavar="FILE", help="whose text clients send as Authorization: Bearer TEXT")


def run(args: argparse.Namespace) -> Answer:
    """Serve until a signal ends it."""
    check_installed()
    from vitrail.serving import ServeOptions, serve

    same = (
        *("host", "port", "name", "page", "log", "threads", "decoders", "max_batch", "batch_wait", "timeout"),
        *("max_body", "max_pixels", "max_images", "max_connections", "queue_seconds", "drain", "drain_delay"),
    )
    options = ServeOptions(
        **{name: getattr(args, name) for name in same},
        allow_host=tuple(args.allow_host),
        allow_origin=tuple(args.allow_origin),
        token=_token(args.token_file) if args.token_file else "",
        explain=args.explain == "auto",
    )

    def on_ready(card: dict[str, Any]) -> None:
        if args.json:
            answer_json({name: card[name] for name in ("url", "name", "version", "limits")})

    serve(exported(args.model), options, on_ready)
    return Answer([], None)


def check_installed() -> None:
    """Raise ConfigError where the extra is missing."""
    packages = ("starlette", "uvicorn", "h11", "prometheus_client", "onnxruntime")
    if absent := [name for name in packages if importlib.util.find_spec(name) is None]:
        raise ConfigError(
            "What the server needs is not installed.",
            got=f"no {' and no '.join(absent)}",
            do=install_hint(shell_word("vitrail[serve]")),
        )


def exported(model: str) -> Path:
    """The exported file of a model: itself, or one in the user's cache, written now or before.

    Raises:
        VitrailError: it cannot be read or exported.
    """
    from vitrail.predictor.exported_file import is_exported

    if is_exported(model) or Path(model).suffix.lower() == ".onnx":
        return Path(model)
    fingerprint = _fingerprint(model)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", model.removeprefix("builtin:").rstrip("/").rpartition("/")[2]) or "model"
    path = engine_cache() / f"{name}-{fingerprint}" / f"{name}.onnx"
    if fingerprint and path.is_file():
        return path
    from vitrail import fsio
    from vitrail.api.exporting import export

    try:
        fsio.make_dir(path.parent)
        return Path(export(model, path, on_note=say).path)
    except SaveError as error:
        do = f"Export it first: vitrail export {shell_word(model)} --out FILE.onnx"
        raise ConfigError("The exported model cannot be kept in your cache folder.", got=error.what, do=do) from error


def _fingerprint(model: str) -> str:
    """Changes with the files of a model; empty where it is not known what they are."""
    path = Path(model)
    if model.startswith("builtin:"):
        found = [model]
    elif path.is_file():
        found = [_state(path)]
    elif path.is_dir():
        found = [_state(file) for file in sorted(path.iterdir()) if file.is_file()]
    else:
        return ""
    return hashlib.sha256("\n".join([__version__, str(path.absolute()), *found]).encode()).hexdigest()[:16]


def _state(file: Path) -> str:
    found = file.stat()
    return f"{file.name} {found.st_size} {found.st_mtime_ns}"


def _token(path: str) -> str:
    """The text of a token file. Raises ConfigError."""
    try:
        token = read_regular(Path(path), _LARGEST_TOKEN_FILE).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{shown(path)}: the token cannot be read.", got=getattr(error, "strerror", error)) from error
    if len(token) < _LEAST_TOKEN or not token.isprintable() or " " in token:
        raise ConfigError(
            f"{shown(path)}: is no token.",
            got=f"{len(token)} characters",
            expected=f"at least {_LEAST_TOKEN} letters, digits and signs without a space",
            do="Make one: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'",
        )
    return token


def _seconds(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{shown(word)!r} is no number")
    return value


def _count(word: str) -> int:
    return int(_seconds(word))


def _bytes(word: str) -> int:
    match = re.fullmatch(r"([0-9.]+) ?([kmg]i?)?b?", word.lower())
    if match is None or match[1].count(".") > 1:
        raise argparse.ArgumentTypeError(f"{shown(word)!r} is no size, as 20MB")
    return int(float(match[1]) * _UNITS[match[2] or ""])
