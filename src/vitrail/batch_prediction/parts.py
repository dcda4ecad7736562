"""The output: a part for each unit, as Parquet with a footer that says what made it, or as CSV.

A part appears under its name whole or not at all, and its name says which unit it is of and which job made it: a worker
that does the same again writes the same rows under the same name.
"""

import csv
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from vitrail import fsio
from vitrail.batch_prediction.units import Row
from vitrail.errors import ConfigError, install_hint
from vitrail.predictor.batch import Answers
from vitrail.reading import DAMAGE, parsed_json

Form = Literal["parquet", "csv"]
KEY = b"vitrail"
"""Under which a footer has what made the part."""
_GROUP_ROWS, _GROUP_BYTES = 4096, 16 << 20


@dataclass(frozen=True)
class Counts:
    """What a part holds.

    Args:
        rows: all of them.
        errors: those whose image could not be read.
        rows_sha256: of the rows, in hexadecimal; empty: of a CSV file nobody knows.
    """

    rows: int
    errors: int
    rows_sha256: str = ""


@dataclass
class _Rows:
    """Rows that are not written yet."""

    keys: list[str] = field(default_factory=list[str])
    numbers: list[int] = field(default_factory=list[int])
    answers: list[Answers] = field(default_factory=list[Answers])

    def add(self, rows: list[Row], answers: Answers) -> None:
        self.keys += [one.key for one in rows]
        self.numbers += [one.row for one in rows]
        self.answers.append(answers)

    @property
    def is_enough(self) -> bool:
        num_bytes = sum(values.nbytes for part in self.answers for values in part.values())
        return len(self.keys) >= _GROUP_ROWS or num_bytes >= _GROUP_BYTES


def write_part(
    path: Path, form: Form, shard: str, about: dict[str, Any], batches: Iterator[tuple[list[Row], Answers]]
) -> Counts:
    """Write a part.

    Args:
        path: its name.
        shard: that all its rows come from.
        about: the footer, to which the counts are added.
        batches: the rows in order; at least one batch, which may be empty.
    Raises:
        SaveError: it cannot be written; nothing is left of it.
    """
    with fsio.writing(path, "wb" if form == "parquet" else "w") as file:
        return _write_parquet(file, shard, about, batches) if form == "parquet" else _write_csv(file, shard, batches)


def counts_of(path: Path, form: Form, fingerprint: str, unit: str) -> Counts | None:
    """What a finished part holds; None: there is none, it is damaged, or it is of another job or unit."""
    if not path.is_file():
        return None
    if form == "csv":  # its name is that of the job and the unit
        with path.open(newline="", encoding="utf-8") as file:
            errors = [row["error"] for row in csv.DictReader(file)]
        return Counts(len(errors), sum(map(bool, errors)))
    pyarrow, parquet = _pyarrow()
    try:
        with parquet.ParquetFile(path) as file:
            about = parsed_json(file.metadata.metadata[KEY])
            rows = file.metadata.num_rows
        found = Counts(about["rows"], about["errors"], about["rows_sha256"])
        return found if (about["fingerprint"], about["unit"], found.rows) == (fingerprint, unit, rows) else None
    except (pyarrow.ArrowException, *DAMAGE):
        return None


def check_form(form: Form) -> None:
    """Raise ConfigError where the library of a form is missing."""
    if form == "parquet":
        _pyarrow()


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ConfigError(
            "Writing Parquet needs pyarrow.", do=f"{install_hint('pyarrow')}. For a small job: --to csv."
        ) from error
    return pyarrow, parquet


def _write_parquet(
    file: IO[Any], shard: str, about: dict[str, Any], batches: Iterator[tuple[list[Row], Answers]]
) -> Counts:
    _, parquet = _pyarrow()
    writer: Any = None
    digest, num_rows, num_errors = hashlib.sha256(), 0, 0
    for rows in _groups(batches):
        table = _table(rows, shard)
        if writer is None:
            texts = [name for name in table.column_names if name == "shard" or name.startswith("label")]
            writer = parquet.ParquetWriter(file, table.schema, compression="zstd", use_dictionary=texts)
        for batch in table.to_batches():
            digest.update(batch.serialize())
        num_rows, num_errors = num_rows + len(table), num_errors + len(table) - table.column("error").null_count
        writer.write_table(table)
    counts = {"rows": num_rows, "errors": num_errors, "rows_sha256": digest.hexdigest()}
    writer.add_key_value_metadata({KEY: json.dumps({**about, **counts})})
    writer.close()
    return Counts(num_rows, num_errors, digest.hexdigest())


def _groups(batches: Iterator[tuple[list[Row], Answers]]) -> Iterator[_Rows]:
    rows = _Rows()
    for some, answers in batches:
        rows.add(some, answers)
        if rows.is_enough:
            yield rows
            rows = _Rows()
    if rows.answers:
        yield rows


def _table(rows: _Rows, shard: str) -> Any:
    import pyarrow as pa

    answers = {name: np.concatenate([part[name] for part in rows.answers]) for name in rows.answers[0]}
    is_bad = answers.pop("error") != ""
    columns: dict[str, Any] = {
        "key": pa.array(rows.keys, pa.string()),
        "shard": pa.array([shard] * len(rows.keys), pa.string()),
        "row": pa.array(rows.numbers, pa.int64()),
    }
    for name, values in answers.items():
        if values.ndim == 2:
            flat = pa.array(np.ascontiguousarray(values).reshape(-1))
            columns[name] = pa.FixedSizeListArray.from_arrays(flat, values.shape[1], mask=pa.array(is_bad))
        else:
            columns[name] = pa.array(values, pa.string() if values.dtype.kind == "O" else None, mask=is_bad)
    reasons = np.concatenate([part["error"] for part in rows.answers])
    columns["error"] = pa.array(reasons, pa.string(), mask=~is_bad)
    return pa.table(columns)


def _write_csv(file: IO[Any], shard: str, batches: Iterator[tuple[list[Row], Answers]]) -> Counts:
    writer = csv.writer(file, lineterminator="\n")
    num_rows = num_errors = 0
    for rows, answers in batches:
        cells = [_cells(name, values) for name, values in answers.items()]
        if not num_rows:
            writer.writerow(["key", "shard", "row", *(name for names, _ in cells for name in names)])
        for place, one in enumerate(rows):
            writer.writerow([one.key, shard, one.row, *(cell for _, found in cells for cell in found[place])])
        num_rows, num_errors = num_rows + len(rows), num_errors + int((answers["error"] != "").sum())
    return Counts(num_rows, num_errors)


def _cells(name: str, values: np.ndarray) -> tuple[list[str], list[list[str]]]:
    """The columns of an answer, and the cells of each row; numbers in as many digits as tell them apart."""
    wide = values.reshape(len(values), -1)
    names = [name] if values.ndim == 1 else [f"{name}_{place}" for place in range(values.shape[1])]
    if values.dtype.kind == "O":
        return names, wide.tolist()
    return names, [
        ["" if np.isnan(value) else np.format_float_positional(value, trim="-") for value in row] for row in wide
    ]
