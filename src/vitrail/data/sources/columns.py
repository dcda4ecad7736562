"""Which columns of a Parquet file hold the images and their classes: by the Hub's metadata, else by name and type."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrail.config.checks import distinct_names
from vitrail.data.sources.index import few, nfc
from vitrail.data.sources.labels import LABEL_COLUMNS, check_classes
from vitrail.errors import DataError, shown
from vitrail.reading import parsed_json

_IMAGE_COLUMNS = ("image", "img", "picture", "photo", "pixel_values", "jpg", "png")
_PATH_COLUMNS = ("path", "file_name", "filename", "file", "image_path", "filepath")


@dataclass(frozen=True)
class Columns:
    """Where a file keeps images and labels; `names` are those of integer labels, if the file gives them."""

    image: str
    form: str
    """What the image column holds: struct, bytes or path."""
    image_parts: tuple[str, ...]
    """The column, or of a struct what is read of it."""
    label: str
    """Empty: there is none, and none was needed."""
    names: tuple[str, ...] | None


def find_columns(schema: Any, path: Path, *, needs_label: bool = True) -> Columns:
    """Find the image and the label column.

    Args:
        schema: the Arrow schema of the file.
        path: the file.
        needs_label: False: only the images are looked for.
    Raises:
        DataError: one of them is not there, is there twice, or holds lists; or there are too many classes.
    """
    features = _features(schema)
    fields = {field.name: field.type for field in schema}
    forms = {name: form for name, kind in fields.items() if (form := _form(kind))}

    def kind(column: str) -> object:
        return features.get(column, {}).get("_type")

    def is_called(column: str, accepted: Sequence[str]) -> bool:
        return column.lower() in accepted

    encoded = [name for name, form in forms.items() if form != "path"]
    images = [name for name in encoded if kind(name) == "Image" or is_called(name, _IMAGE_COLUMNS)] or encoded
    images = images or [name for name in forms if is_called(name, (*_IMAGE_COLUMNS, *_PATH_COLUMNS))]
    lower = {name.lower(): name for name in fields}
    labels = [lower[name] for name in LABEL_COLUMNS if name in lower and lower[name] not in images[:1]]
    labels = labels or [name for name in fields if kind(name) == "ClassLabel"]
    if not needs_label:
        labels = [""]
    if not images or not labels:
        raise DataError(
            f"{shown(path)}: no {'label' if images else 'image'} column was found.",
            got=f"columns {few([f'{name} ({kind})' for name, kind in fields.items()], 12)}",
            expected=f"a label column, called {', '.join(LABEL_COLUMNS)}"
            if images
            else f"an image column of bytes or structs {{bytes, path}}, called {', '.join(_IMAGE_COLUMNS)} or as you "
            f"like, or one of paths, called {', '.join(_PATH_COLUMNS)}",
            do="Rename the column.",
        )
    for name in (images[0], labels[0]):
        if schema.names.count(name) > 1:
            raise DataError(
                f"{shown(path)}: {schema.names.count(name)} columns are called {shown(name)!r}.",
                expected="one",
                do="Rename the others, or leave them out.",
            )
    if needs_label:
        _check_no_list(labels[0], fields[labels[0]], path)
    names = features[labels[0]].get("names") if kind(labels[0]) == "ClassLabel" else None
    own_names = None
    if isinstance(names, list) and names:
        check_classes(names)
        own_names = distinct_names(nfc(str(name)) for name in names)
    parts = tuple(f"{images[0]}.{part}" for part in _parts(fields[images[0]])) or (images[0],)
    return Columns(images[0], forms[images[0]], parts, labels[0], own_names)


def _check_no_list(label: str, kind: Any, path: Path) -> None:
    """Raise DataError for a column of lists and the like: a row of them may have any size, so it is not read."""
    from pyarrow import types

    inner = getattr(kind, "storage_type", getattr(kind, "value_type", kind))  # of an extension, of a dictionary
    if types.is_nested(kind) or types.is_nested(inner):
        raise DataError(
            f"{shown(path.name)}, column {shown(label)!r}: this is not a class.",
            got=f"a column of {shown(kind, 60)}",
            expected="integers or text, one class for each image",
            do="Models with several classes for an image are not trained here.",
        )


def _parts(kind: Any) -> list[str]:
    """What of a struct is read as an image: its bytes, and the path of its file; empty where it is none."""
    from pyarrow import types

    fields = [kind.field(i) for i in range(kind.num_fields)] if types.is_struct(kind) else []
    forms = {"bytes": "bytes", "path": "path"}
    return [field.name for field in fields if _form(field.type) == forms.get(field.name, "")]


def _form(kind: Any) -> str | None:
    """What a column can give as an image: struct, bytes or path; None where it can not."""
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_struct(kind):
        return "struct" if _parts(kind) else None
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return "bytes"
    if "binary_view" in str(kind):
        return "bytes"
    return "path" if types.is_string(kind) or types.is_large_string(kind) or "string_view" in str(kind) else None


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    """The Hub's description of each column; empty where the file is not of the Hub: names and types decide then."""
    try:
        features = parsed_json(schema.metadata[b"huggingface"])["info"]["features"]
        return {str(column): feature for column, feature in features.items() if isinstance(feature, dict)}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
