"""The work: units that have no part yet, one after the other; reading and decoding run ahead of the model."""

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from vitrail.batch_prediction.job import Job, Part
from vitrail.batch_prediction.parts import write_part
from vitrail.batch_prediction.units import Record, Row
from vitrail.data.sources import Encoded
from vitrail.data.streaming.remote import Unreachable
from vitrail.errors import DataError, ImageError, SaveError
from vitrail.predictor.batch import Answers, BatchPredictor, Pixels
from vitrail.progress import Bar
from vitrail.runtime.cores import available_cores

_MOST_UNREACHABLE = 3
"""Units that cannot be fetched, however often it is tried, after which a worker gives up."""
_AHEAD, _LEAST_READ = 2, 8
"""Batches that are read and decoded while another one is computed; images in each of them at least."""
_MOST_BYTES = 64 << 20
"""Of encoded images that wait for a decoder."""
_GUESSED_BYTES = 100_000
"""Of an image in a shard, until one shard is done."""

Decoding = Future[Pixels | ImageError]


@dataclass
class Done:
    """What a worker has done.

    Args:
        parts: written now.
        kept: there already.
        rows, errors: written now.
        failed: units that are damaged, and why; a line each.
        unreachable: units that could not be fetched, and why.
    """

    parts: int = 0
    kept: int = 0
    rows: int = 0
    errors: int = 0
    failed: list[str] = field(default_factory=list[str])
    unreachable: list[str] = field(default_factory=list[str])


def do_parts(
    job: Job,
    parts: Sequence[Part],
    predictor: BatchPredictor,
    *,
    progress: bool = False,
    on_batch: Callable[[int], object] = lambda _: None,
) -> Done:
    """Write the parts that are not there yet.

    Args:
        parts: this worker's; others may be given the same ones.
        progress: show a bar.
        on_batch: told after each batch how many rows are done.
    Raises:
        SaveError: a part cannot be written.
        WeightsError: the model gives no finite numbers.
    """
    done = Done()
    expected = _Expected(parts)
    is_guess = any(part.unit.count is None for part in parts)
    with _Pipeline(predictor) as pipeline, Bar(expected.total, about=is_guess, enabled=progress) as bar:

        def batches(part: Part) -> Generator[tuple[list[Row], Answers]]:
            for rows, decoded in pipeline.batches(part.unit.records()):
                yield rows, predictor.answers(decoded)
                bar.advance(len(rows))
                on_batch(bar.done)

        for part in parts:
            before = bar.done
            if (there := job.counts(part)) is not None:
                done.kept += 1
                bar.advance(there.rows)
            else:
                try:
                    with closing(batches(part)) as rows:
                        counts = write_part(part.path, job.form, part.unit.shard, job.footer(part), rows)
                    done.parts, done.rows = done.parts + 1, done.rows + counts.rows
                    done.errors += counts.errors
                except Unreachable as error:
                    done.unreachable.append(_line(error))
                    if len(done.unreachable) == _MOST_UNREACHABLE:
                        break
                except DataError as error:
                    done.failed.append(_line(error))
                except SaveError:
                    if job.counts(part) is None:  # another worker that was done first has tidied up
                        raise
            bar.expect(expected.after(part, bar.done - before))
    return done


def _line(error: DataError) -> str:
    """What could not be read, and why."""
    return error.what.removesuffix(".") + (f" ({error.got})" if error.got is not None else "")


class _Expected:
    """How many images there are, by what the shards so far have held."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._left = [part.unit for part in parts]
        self._rows = self._bytes = self._done = 0

    @property
    def total(self) -> int:
        """Of all parts."""
        each = self._bytes / self._rows if self._rows else _GUESSED_BYTES
        return self._done + round(sum(u.num_bytes / each if u.count is None else u.count for u in self._left))

    def after(self, part: Part, rows: int) -> int:
        """The total, now that a part is done."""
        self._left.pop(0)
        self._done += rows
        if part.unit.count is None:
            self._rows, self._bytes = self._rows + rows, self._bytes + part.unit.num_bytes
        return self.total


class _Pipeline:
    """A thread that reads, threads that decode, and the caller, who computes; all of them some batches apart."""

    def __init__(self, predictor: BatchPredictor) -> None:
        self._predictor = predictor
        # One image at a time (int8) is no reason to read one at a time.
        self._size = max(predictor.loaded.batch_size, _LEAST_READ)
        self._reader = ThreadPoolExecutor(1, "reading")
        self._decoders = ThreadPoolExecutor(predictor.threads or available_cores(), "decoding")
        self._undecoded: deque[tuple[Decoding, int]] = deque()
        self._num_bytes = 0

    def batches(self, records: Iterator[Record]) -> Iterator[tuple[list[Row], list[Pixels | ImageError]]]:
        """The rows in order with their pixels; one empty batch where there are none. Raises what reading raises."""
        ahead = deque(self._reader.submit(self._take, records) for _ in range(_AHEAD))
        is_first = True
        while (taken := ahead.popleft().result()) or is_first:
            is_first = False
            ahead.append(self._reader.submit(self._take, records))
            pixels = [one if isinstance(one, ImageError) else one.result() for _, one in taken]
            yield [row for row, _ in taken], pixels

    def _take(self, records: Iterator[Record]) -> list[tuple[Row, Decoding | ImageError]]:
        taken = itertools.islice(records, self._size)
        return [(Row(one.key, one.row), self._decoding(one.image)) for one in taken]

    def _decoding(self, image: Encoded | ImageError) -> Decoding | ImageError:
        """Have an image decoded, when there is room for its bytes."""
        if isinstance(image, ImageError):
            return image
        while self._undecoded and (self._num_bytes > _MOST_BYTES or self._undecoded[0][0].done()):
            decoding, num_bytes = self._undecoded.popleft()
            wait((decoding,))
            self._num_bytes -= num_bytes
        decoding = self._decoders.submit(self._predictor.decode, image)
        num_bytes = 0 if isinstance(image, Path) else len(image) if isinstance(image, bytes) else image.nbytes
        self._undecoded.append((decoding, num_bytes))
        self._num_bytes += num_bytes
        return decoding

    def __enter__(self) -> "_Pipeline":
        return self

    def __exit__(self, *_: object) -> None:
        for pool in (self._reader, self._decoders):
            pool.shutdown(cancel_futures=True)
