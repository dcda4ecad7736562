"""What a stranger's file is given to, in a process of its own: an answer or one error, in bounded time and memory.

Jobs of a fork server (`vitrail.selftest.fork_server`): a job that ends with 0 has passed, everything else has not.
"""

import contextlib
import copy
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tests.support.headers import rehashed
from tests.support.images import encode, noise
from tests.support.random_vit import random_vit
from vitrail import data, weights
from vitrail.cli import main
from vitrail.config import DataConfig, Preprocessing
from vitrail.data import load_image
from vitrail.data.decode import decode_image, image_header
from vitrail.data.sources.official import open_cifar
from vitrail.errors import VitrailError
from vitrail.predictor import Prediction, Predictor
from vitrail.runtime import EngineOptions
from vitrail.selftest.fork_server import ForkServer

SECONDS = 2.0
MIB = 256.0
_LONGEST_MESSAGE = 4000
_HANGS_SECONDS = 60
BATCH = 250
SEEN: list[dict[str, float]] = []
"""Of each reading of this process: whether it ended in an error of ours, its seconds and its growth in MiB."""
# What is refused after it was tried would still take the machine along: the system says no far above the limit.
_HARD_MIB = 4096


def _weights(path: Path) -> Iterator[Callable[[], object]]:
    yield lambda: weights.load_card(path)
    yield lambda: weights.load(path)
    yield lambda: weights.load(path, num_labels=3, image_size=32)
    yield lambda: command("inspect", str(path))
    yield lambda: command("inspect", str(path), "--json")


def _model(path: Path) -> Iterator[Callable[[], object]]:
    """A model file of ours, with an image beside it that it is asked about."""
    image = path.parent / "sample.png"
    image.write_bytes(encode(noise(6, 6, 0), "PNG"))
    yield from _weights(path)
    yield lambda: command("predict", str(path), str(image), "--device", "cpu", "--json")


SQUARE = Preprocessing(image_size=(16, 16), decode_size=(16, 16), mean=(0.5,) * 3, std=(0.5,) * 3)


def _image(path: Path) -> Iterator[Callable[[], object]]:
    yield lambda: image_header(path)
    yield lambda: load_image(path, SQUARE)
    yield lambda: load_image(path, replace(SQUARE, fast_decoding=True))
    yield lambda: decode_image(path)


def _data(path: Path) -> Iterator[Callable[[], object]]:
    config = DataConfig(spec=str(path), image_size=8)
    yield lambda: data.summary(config)
    yield lambda: data.check(config)
    yield lambda: data.load(config, ("all",))


def _cifar(path: Path) -> Iterator[Callable[[], object]]:
    yield lambda: open_cifar(path, "cifar10")


TARGETS: dict[str, Callable[[Path], Iterator[Callable[[], object]]]] = {
    "weights": _weights,
    "model": _model,
    "image": _image,
    "data": _data,
    "cifar10": _cifar,
}


class Told(VitrailError):
    """What a command of ours ended with."""

    def __init__(self, text: str, status: int) -> None:
        Exception.__init__(self, text)
        self.exit_status = status


def command(*words: str) -> None:
    """Run a command of ours.

    Raises:
        Told: its exit status is neither 0 nor 1.
        AssertionError: a fault of ours, or characters in what it wrote that a terminal would follow.
    """
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(words)
    if status == 1:
        raise AssertionError(f"vitrail {words[0]}: {err.getvalue()[-1500:]}")
    if status:
        raise Told(err.getvalue(), status)
    _check_characters(out.getvalue() + err.getvalue())


def attempt(target: str, path: str, seconds: float = SECONDS, mib: float = MIB) -> None:
    """Give one file or folder to everything that reads it. Raises what is none of our errors, or AssertionError."""
    torch.set_num_threads(1)
    _try(TARGETS[target](Path(path)), seconds, mib)


def attempt_together(folder: str, mib: float) -> None:
    """Decode all images of a folder of classes side by side, for training and for a prediction, in so much memory."""
    torch.set_num_threads(1)
    paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    model = random_vit(num_labels=2)
    predictor = Predictor(
        (model, weights.Card(geometry=model.config, classes=("a", "b"), preprocessing=SQUARE)),
        options=EngineOptions(engine="torch"),
    )
    with _bounded(600, mib):
        loaded = data.load(DataConfig(spec=folder, image_size=16), ("all",))
        answers = list(predictor.stream(paths, batch_size=len(paths)))
    assert sum(len(split.images) for split in loaded.values()) == len(paths)
    assert all(isinstance(answer, Prediction) for answer in answers), answers


def attempt_mutants(target: str, folder: str, kind: str, first: int, count: int = BATCH, changed: str = "") -> None:
    """Damage copies of the entries of `folder`, one after the other, and give each to everything that reads it.

    Args:
        target: of TARGETS.
        folder: honest files, or folders of files.
        kind: what is damaged: bytes, a json document, the card of a model file of ours, or the header of one.
        first: number of the first mutant: with `count`, all that the damage depends on.
        changed: glob of the files that are damaged where entries are folders.
    Raises:
        AssertionError: for some of them a reader raised what is none of our errors, or went beyond a bound; the
            standard error says which.
    """
    seeds = sorted(Path(folder).iterdir())

    def make(number: int, work: Path) -> tuple[Path, str]:
        rng, seed = random.Random(number), seeds[number % len(seeds)]
        mutant = work / seed.name
        if seed.is_dir():
            shutil.copytree(seed, mutant)
            victim = rng.choice(sorted(f for f in mutant.rglob(changed or "*") if f.is_file()))
        else:
            shutil.copy(seed, mutant)
            victim = mutant
        victim.write_bytes(_DAMAGE[kind](victim.read_bytes(), rng))
        return mutant, victim.name

    try_mutants(make, TARGETS[target], Path(folder).parent / f"mutant-{target}-{kind}-{first}", first, count)


def try_mutants(
    make: Callable[[int, Path], tuple[Path, str]],
    use: Callable[[Path], Iterator[Callable[[], object]]],
    work: Path,
    first: int,
    count: int,
) -> None:
    """Make mutants, one after the other in the folder `work`, and give each to everything that reads it.

    Args:
        make: a mutant by its number, in an empty folder: what is opened, and what was damaged.
        use: yields everything that reads it.
    Raises:
        AssertionError: as `attempt_mutants`.
    """
    torch.set_num_threads(1)
    failed: list[int] = []
    SEEN.clear()
    for number in range(first, first + count):
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        what = "?"
        try:
            mutant, what = make(number, work)
            _try(use(mutant), SECONDS, MIB)
        except Exception:
            failed.append(number)
            sys.stderr.write(f"mutant {number} of {what}: {traceback.format_exc(limit=-3)[-900:]}\n")
    shutil.rmtree(work, ignore_errors=True)
    most = {name: round(max(seen[name] for seen in SEEN), 2) for name in ("seconds", "mib")}
    sys.stderr.write(f"{len(SEEN)} readings, {sum(seen['error'] for seen in SEEN)} errors, at most {most}\n")
    assert not failed, f"mutants {failed}"


def run_mutants(server: ForkServer, job: str, arguments: dict[str, Any], variable: str, most: int, log: Path) -> None:
    """Run a job of `server` for each batch of mutants.

    Args:
        job: module:function, which takes `first` and `count` beside the `arguments`.
        variable: of the environment, which may say another number of mutants.
        most: how many where it does not.
        log: a file for what jobs write.
    Raises:
        AssertionError: a batch failed; the message has the end of what the first ones wrote.
    """
    count = int(os.environ.get(variable, most))
    failures: list[str] = []
    for first in range(0, count, BATCH):
        batch = {**arguments, "first": first, "count": min(BATCH, count - first)}
        ended = server.run(job, batch, log=log, timeout=600)
        if ended.statuses != [0]:
            failures.append(f"{first}: {ended}: {log.read_text()[-1500:]}")
    assert not failures, f"{len(failures)} of {count / BATCH:.0f} batches\n" + "\n".join(failures[:5])


def _try(readers: Iterator[Callable[[], object]], seconds: float, mib: float) -> None:
    """Ask each of the readers, each of which is a command for its user, and keep it to the bounds."""
    for read in readers:
        with _bounded(seconds, mib) as seen:
            try:
                read()
            except VitrailError as error:
                seen["error"] = 1
                _check_message(str(error), error.exit_status)


def _check_message(text: str, status: int) -> None:
    assert status == 2, f"exit status {status}: {text}"
    assert len(text) <= _LONGEST_MESSAGE, f"a message of {len(text)} characters: {text[:200]}"
    _check_characters(text)


def _check_characters(text: str) -> None:
    odd = {c for c in text if not c.isprintable() and c != "\n" and unicodedata.category(c) != "Zs"}
    assert not odd, f"raw characters {odd!r} in {text[:200]!r}"


@contextlib.contextmanager
def _bounded(seconds: float, mib: float) -> Iterator[dict[str, float]]:
    """Raise AssertionError when a `with` block takes more time of the processor, or more memory; SEEN has both."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest use of memory so far
    before, size = _status("VmRSS"), _status("VmSize")
    resource.setrlimit(resource.RLIMIT_AS, (int((size + max(_HARD_MIB, 4 * mib)) * 2**20), resource.RLIM_INFINITY))
    signal.signal(signal.SIGALRM, _hangs)
    signal.alarm(max(_HANGS_SECONDS, int(seconds)))
    started, seen = time.process_time(), {"error": 0.0}
    try:
        yield seen
    finally:
        signal.alarm(0)
    took, grew = time.process_time() - started, _status("VmHWM") - before
    SEEN.append({**seen, "seconds": took, "mib": grew})
    assert took <= seconds, f"{took:.1f} s, more than {seconds} s"
    assert grew <= mib, f"{grew:.0f} MiB, more than {mib} MiB"


def _hangs(*_: object) -> None:
    raise AssertionError(f"no answer in {_HANGS_SECONDS} s")


def _status(name: str) -> float:
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{name}:")[1].split()[0]) / 1024


# ---- damage ------------------------------------------------------------------------------------------------------

_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF)


def damaged(raw: bytes, rng: random.Random) -> bytes:
    """Bytes with one to three of: a flipped bit, a number in their place, a stretch gone, doubled, moved or cut off."""
    out = bytearray(raw)
    for _ in range(rng.choice((1, 1, 2, 3))):
        # Headers stand at the beginning or at the end, and say more than what lies between.
        at = rng.choice(
            (
                rng.randrange(len(out) + 1),
                rng.randrange(min(len(out), 512) + 1),
                max(len(out) - rng.randrange(1, 513), 0),
            )
        )
        length = rng.choice((1, 2, 4, 8, rng.randrange(1, 65)))
        match rng.randrange(7):
            case 0 if at < len(out):
                out[at] ^= 1 << rng.randrange(8)
            case 1:
                size = rng.choice((1, 2, 4, 8))
                number = rng.choice(_NUMBERS) & ((1 << 8 * size) - 1)
                out[at : at + size] = number.to_bytes(size, rng.choice(("little", "big")))
            case 2:
                del out[at : at + length]
            case 3:
                out[at:at] = out[at : at + length] * rng.choice((1, 2, 100))
            case 4:
                out[at:at] = rng.randbytes(length)
            case 5:
                source = rng.randrange(len(out) + 1)
                out[at : at + length] = out[source : source + length]
            case _:
                if rng.random() < 0.3:
                    del out[at:]
    return bytes(out)


VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 7, 10**9, -(10**9), 2**31, 2**63, 10**30, 10**400, 0.0, 1e-300, 1e300, -0.5, "",
    "0", "x" * 5000, "\x1b[31m\n", "\ud800", "../../x", "/etc/passwd", [], {}, [[]],
    [0], [-1, 2**40], [1, 2, 3, 4], {"a": 1},
    {"height": 10**9}, {"0": None}, [None] * 1000, float("nan"), float("inf"),
)  # fmt: skip


def damaged_json(raw: bytes, rng: random.Random) -> bytes:
    """A JSON document with one or two of its values or keys exchanged; now and then, damaged bytes."""
    if rng.random() < 0.1:
        return damaged(raw, rng)
    if rng.random() < 0.01:
        return b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    document = json.loads(raw)
    for _ in range(rng.choice((1, 1, 2))):
        places = list(_places(document))
        if not places:
            break
        parent, key = rng.choice(places)
        action = rng.randrange(5)
        if action == 0:
            del parent[key]
        elif action == 1 and isinstance(parent, dict):
            parent[rng.choice(("", "x", "\x1b[2J", "0", str(key).upper()))] = parent.pop(key)
        elif action == 2:
            other, where = rng.choice(places)
            with contextlib.suppress(LookupError):
                parent[key] = json.loads(json.dumps(other[where]))
        else:
            parent[key] = copy.deepcopy(rng.choice(VALUES))
    return json.dumps(document).encode()


def damaged_card(raw: bytes, rng: random.Random) -> bytes:
    """A model file of ours with a damaged description, and mostly the right hash of its header."""
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    described = header["__metadata__"]["vitrail"].encode()
    header["__metadata__"]["vitrail"] = damaged_json(described, rng).decode("utf-8", "replace")
    if rng.random() < 0.9:
        header = rehashed(header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + raw[8 + length :]


def damaged_header(raw: bytes, rng: random.Random) -> bytes:
    """A safetensors file with a damaged header, and its right length."""
    length = int.from_bytes(raw[:8], "little")
    text = damaged_json(raw[8 : 8 + length], rng)
    return len(text).to_bytes(8, "little") + text + raw[8 + length :]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key or index) of a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from _places(inner)


_DAMAGE = {"bytes": damaged, "json": damaged_json, "card": damaged_card, "header": damaged_header}
