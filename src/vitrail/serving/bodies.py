"""The body of a request -> encoded images, or a tensor of pixels, and what else it asks for. Runs in a decoder.

Four forms: an image file as it is; our JSON; that of Hugging Face; that of the Open Inference Protocol, JSON with a
tail of bytes or without. Every count and length is compared with the body before anything is allocated for it.
"""

import binascii
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vitrail.errors import shown
from vitrail.reading import parsed_json
from vitrail.schema import FLAG, TEXT, Kind, whole

MOST_RANKED = 1000
_PUNCTUATION = b"[{,"
_MOST_PUNCTUATION = 1000
"""Of a body without numbers: no honest one has more, and a longer one would take long to parse."""
_LONGEST_ID = 1000
_OUTPUTS = ("probabilities", "logits")
_CURL = "Send the file as it is: curl --data-binary @photo.jpg ADDRESS/predict"
_INTEGER = whole(1, MOST_RANKED)


class BodyError(Exception):
    """The body is not what the route takes; becomes the answer, with an HTTP status."""

    def __init__(self, error: str, got: object = None, expected: str | None = None, do: str | None = None) -> None:
        super().__init__(error)
        self.status = 400
        self.error, self.expected, self.do = error, expected, do
        self.got = None if got is None else shown(got)


@dataclass(frozen=True)
class Limits:
    """Of one request."""

    images: int
    pixels: tuple[int, int, int]
    """Channels, height and width of an image of the tensor model."""


@dataclass
class Body:
    """What a body holds: encoded images, or pixels; and what it asks for."""

    images: list[bytes] = field(default_factory=list[bytes])
    pixels: UInt8[np.ndarray, "B C h w"] | None = None
    asked: dict[str, Any] = field(default_factory=dict[str, Any])
    """In JSON: `top`; `listed` where the images came as a list; of the Open Inference Protocol `id`, `outputs`,
    `timeout`."""


def read_body(
    body: bytes, kind: str, limits: Limits, *, is_json: bool, header_length: int | None, tensor: bool
) -> Body:
    """Read a body.

    Args:
        kind: predict, huggingface or infer.
        is_json: its content type says so; a body that begins as JSON does is taken for it as well.
        header_length: of the Open Inference Protocol: bytes of the JSON before the tail.
        tensor: of the Open Inference Protocol: the model is the one that takes pixels.
    Raises:
        BodyError: it is not what the route takes.
    """
    if not body:
        raise BodyError("The body is empty.", expected="an image file", do=_CURL)
    if kind == "infer":
        return _of_infer(body, limits, header_length, tensor)
    if header_length is not None:
        raise BodyError("Inference-Header-Content-Length belongs to /v2/models/NAME/infer.")
    if not is_json and body.lstrip(b" \t\r\n")[:1] not in (b"{", b"["):
        return Body(images=[body])
    values = _object(body, _MOST_PUNCTUATION)
    if kind == "huggingface":
        _only(values, {"inputs", "parameters"})
        parameters = _mapping(values.get("parameters") or {}, "parameters")
        top = parameters.get("top_k")
        asked = {} if top is None else {"top": _fitting(top, _INTEGER, "parameters.top_k")}
        return Body(images=[_decoded(values.get("inputs"), "inputs")], asked=asked)
    _only(values, {"images", "top"})
    images = _listed(values.get("images"), "images", limits.images)
    asked = {"listed": True}
    if values.get("top") is not None:
        asked["top"] = _fitting(values["top"], _INTEGER, "top")
    return Body(images=[_decoded(image, f"images[{i}]") for i, image in enumerate(images)], asked=asked)


def _of_infer(body: bytes, limits: Limits, header_length: int | None, tensor: bool) -> Body:
    if header_length is not None and not 0 < header_length <= len(body):
        raise BodyError(
            "Inference-Header-Content-Length is beyond the body.", header_length, f"1 to {len(body)}, the body's length"
        )
    numbers = 3 * limits.images * int(np.prod(limits.pixels)) if tensor else 0
    values = _object(body[:header_length], _MOST_PUNCTUATION + numbers)
    tail = memoryview(body)[header_length:] if header_length is not None else memoryview(b"")
    _only(values, {"id", "inputs", "outputs", "parameters"})
    parameters = _mapping(values.get("parameters") or {}, "parameters")
    asked: dict[str, Any] = {"outputs": _outputs(values.get("outputs"), parameters)}
    if values.get("id") is not None:
        asked["id"] = _fitting(values["id"], Kind(f"a text of at most {_LONGEST_ID} characters", _is_id), "id")
    if parameters.get("timeout"):
        asked["timeout"] = _fitting(parameters["timeout"], whole(1, 10**12), "parameters.timeout") / 1e6
    inputs = _listed(values.get("inputs"), "inputs", 1)
    values = _mapping(inputs[0], "inputs[0]")
    _only(values, {"name", "shape", "datatype", "parameters", "data"}, "inputs[0].")
    datatype, name = ("UINT8" if tensor else "BYTES"), "image"
    if (values.get("name"), values.get("datatype")) != (name, datatype):
        got = f"{values.get('name')!r} {values.get('datatype')!r}"
        raise BodyError("inputs[0] is none that the model has.", got, f"{name!r} of datatype {datatype!r}")
    shape = _shape(values.get("shape"), limits, tensor)
    size = _mapping(values.get("parameters") or {}, "inputs[0].parameters").get("binary_data_size")
    if size is None:
        if len(tail):
            raise BodyError("There are bytes after the JSON, and no input takes them.", f"{len(tail)} bytes")
        data = values.get("data")
        if tensor:
            return Body(pixels=_pixels(_numbers(data, shape), shape), asked=asked)
        images = _listed(_flat(data), "inputs[0].data", limits.images, exactly=shape[0])
        return Body(images=[_decoded(image, f"inputs[0].data[{i}]") for i, image in enumerate(images)], asked=asked)
    if size != len(tail) or values.get("data") is not None:
        raise BodyError("The tail is not that of inputs[0].", f"{len(tail)} bytes", f"binary_data_size {size}")
    if not tensor:
        return Body(images=_elements(tail, shape[0]), asked=asked)
    if len(tail) != int(np.prod(shape)):
        raise BodyError("The tail has not the size of its shape.", f"{len(tail)} bytes", f"shape {list(shape)}")
    return Body(pixels=_pixels(np.frombuffer(tail, np.uint8), shape), asked=asked)


def _object(raw: bytes, most: int) -> dict[str, Any]:
    count = sum(raw.count(letter) for letter in map(bytes, zip(_PUNCTUATION)))
    if count > most:
        raise BodyError("The JSON has more parts than a request needs.", f"{count} commas and brackets", f"{most}")
    try:
        values = parsed_json(raw, finite=True)
    except MemoryError:
        raise
    except (ValueError, OverflowError) as error:
        raise BodyError("The body is not JSON.", str(error)[:200], "one JSON object", _CURL) from error
    return _mapping(values, "the body")


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BodyError(f"{where} is not a JSON object.", type(value).__name__, "an object")
    return value


def _only(values: Mapping[str, Any], known: set[str], where: str = "") -> None:
    if unknown := sorted(set(values) - known):
        raise BodyError(f"There is no field {where}{shown(unknown[0])}.", expected=f"one of {', '.join(sorted(known))}")


def _fitting(value: Any, kind: Kind, where: str) -> Any:
    if not kind.fits(value):
        raise BodyError(f"{where} has a wrong value.", value, kind.words)
    return value


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _LONGEST_ID


def _listed(value: Any, where: str, most: int, *, exactly: int | None = None) -> Sequence[Any]:
    if not isinstance(value, list) or not 1 <= len(value) <= most or (exactly and len(value) != exactly):
        got = f"{len(value)} entries" if isinstance(value, list) else type(value).__name__
        raise BodyError(f"{where} has a wrong value.", got, f"a list of {exactly or f'1 to {most}'}")
    return value


def _decoded(text: Any, where: str) -> bytes:
    if not isinstance(text, str):
        raise BodyError(f"{where} has a wrong value.", type(text).__name__, "an image file in base64")
    try:
        return binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
    except ValueError as error:  # UnicodeEncodeError and binascii.Error are of this kind
        got = "an address" if text[:8].lower().startswith(("http:", "https:")) else text[:40]
        raise BodyError(f"{where} is not base64.", got, "an image file in base64") from error


def _outputs(value: Any, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Which outputs are asked for: name, binary, and classification, the number of classes to rank (0: the tensor)."""
    binary = bool(_fitting(parameters.get("binary_data_output", False), FLAG, "parameters.binary_data_output"))
    if not value:
        return [{"name": _OUTPUTS[0], "binary": binary, "classification": 0}]
    found: list[dict[str, Any]] = []
    for i, entry in enumerate(_listed(value, "outputs", len(_OUTPUTS))):
        where = f"outputs[{i}]"
        entry = _mapping(entry, where)
        _only(entry, {"name", "parameters"}, f"{where}.")
        name = _fitting(entry.get("name"), TEXT, f"{where}.name")
        if name not in _OUTPUTS or name in [one["name"] for one in found]:
            raise BodyError(f"{where} is none that the model has.", name, f"{' or '.join(_OUTPUTS)}, each once")
        own = _mapping(entry.get("parameters") or {}, f"{where}.parameters")
        top = _fitting(own.get("classification", 0), whole(0, MOST_RANKED), f"{where}.parameters.classification")
        is_binary = bool(_fitting(own.get("binary_data", binary), FLAG, f"{where}.parameters.binary_data"))
        found.append({"name": name, "binary": is_binary, "classification": top})
    return found


def _shape(value: Any, limits: Limits, tensor: bool) -> tuple[int, ...]:
    channels, height, width = limits.pixels
    expected = f"[n, {height}, {width}, {channels}]" if tensor else "[n]"
    shape: list[Any] = value if isinstance(value, list) else []
    rest = [height, width, channels] if tensor else [1] if len(shape) == 2 else []
    is_whole = bool(shape) and all(type(side) is int for side in shape)
    if not is_whole or shape[1:] != rest or not 1 <= shape[0] <= limits.images:
        raise BodyError("inputs[0].shape has a wrong value.", value, f"{expected}, n at most {limits.images}")
    return tuple(shape)


def _flat(data: Any) -> Any:
    """[[a], [b]] as [a, b]."""
    if isinstance(data, list) and all(isinstance(one, list) and len(one) == 1 for one in data):
        return [one[0] for one in data]
    return data


def _numbers(data: Any, shape: tuple[int, ...]) -> np.ndarray:
    try:
        values = np.asarray(data)
    except (ValueError, OverflowError) as error:
        raise BodyError("inputs[0].data is no tensor.", expected=f"numbers of shape {list(shape)}") from error
    if values.dtype.kind not in "iu" or values.size != int(np.prod(shape)) or values.min() < 0 or values.max() > 255:
        got = f"{values.size} values of {values.dtype}"
        raise BodyError("inputs[0].data has wrong values.", got, f"{int(np.prod(shape))} integers from 0 to 255")
    return values.astype(np.uint8)


def _pixels(values: np.ndarray, shape: tuple[int, ...]) -> UInt8[np.ndarray, "B C h w"]:
    return np.ascontiguousarray(values.reshape(shape).transpose(0, 3, 1, 2))


def _elements(tail: memoryview, count: int) -> list[bytes]:
    """The elements of a tensor of BYTES, each after its length as a little-endian 32-bit integer."""
    found: list[bytes] = []
    at = 0
    for _ in range(count):
        length = struct.unpack_from("<I", tail, at)[0] if at + 4 <= len(tail) else len(tail)
        at += 4
        if at + length > len(tail):
            raise BodyError("The tail ends within an element.", f"{len(tail)} bytes", f"{count} elements")
        found.append(bytes(tail[at : at + length]))
        at += length
    if at != len(tail):
        raise BodyError("The tail has more than its elements.", f"{len(tail)} bytes", f"{at} bytes")
    return found
