"""The outermost layer of an ONNX file, without the package onnx: what is written beside the graph, and a checksum.

An ONNX file is a protobuf message, a row of fields, each a number and its content; a field may come again, and two
messages written one after the other are one message. So what a file says of itself is appended to the bytes of its
graph, and the checksum of the graph is that of all other fields.

Source: onnx.proto of ONNX 1.21 (ModelProto, GraphProto, TensorProto, StringStringEntryProto) and the encoding of
protobuf.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from vitrail.errors import WeightsError

MOST_METADATA_BYTES = 1 << 20
_MODEL_METADATA, _MODEL_GRAPH, _MODEL_FIELDS = 14, 7, (*range(1, 9), 14)
"""Without functions and training, which we do not write."""
_GRAPH_NODE, _GRAPH_CONSTANT, _NODE_ATTRIBUTE = 1, 5, 5
_ATTRIBUTE_TENSOR, _ATTRIBUTE_OTHERS = 5, (6, 10, 11, 22, 23)
"""Others: graphs, lists of tensors, sparse tensors, which we do not write."""
_TENSOR_EXTERNAL, _TENSOR_LOCATION = 13, 14
_BYTES = 2
"""The wire type of what has a length: texts, messages."""
_MOST_NUMBER_BYTES = 10


@dataclass(frozen=True)
class OnnxFile:
    """What the outermost layer of a file holds.

    Args:
        metadata: texts by name.
        graph_sha256: of everything else.
    """

    metadata: dict[str, str]
    graph_sha256: str


def read_onnx(file: bytes, name: str) -> OnnxFile:
    """Look at a file's outermost layer.

    Args:
        name: what messages call the file.
    Raises:
        WeightsError: no ONNX file, damaged, weights in other files, or too much metadata.
    """
    view, metadata, digest, num_bytes, has_graph = memoryview(file), dict[str, str](), hashlib.sha256(), 0, False
    try:
        for number, begin, start, end in _fields(view):
            if number not in _MODEL_FIELDS:
                raise ValueError(f"a part of the kind {number}, which no exported file has")
            if number == _MODEL_METADATA:
                num_bytes += end - start
                if num_bytes > MOST_METADATA_BYTES:
                    raise WeightsError(
                        f"{name}: too much is written beside its graph.",
                        got=f"more than {MOST_METADATA_BYTES} bytes",
                        expected="the names of classes, and what a model needs",
                    )
                entry = {key: bytes(view[start:end][a:b]).decode() for key, _, a, b in _fields(view[start:end])}
                metadata[entry.get(1, "")] = entry.get(2, "")
            else:
                digest.update(view[begin:end])
            if number == _MODEL_GRAPH:
                has_graph = True
                _check_constants(view[start:end], name)
    except (ValueError, IndexError) as error:
        raise WeightsError(f"{name}: not an ONNX file, or a damaged one.", got=error) from error
    if not has_graph:
        raise WeightsError(f"{name}: not an ONNX file, or a damaged one.", got="no graph in it")
    return OnnxFile(metadata, digest.hexdigest())


def encoded_metadata(metadata: Mapping[str, str]) -> bytes:
    """What is appended to an ONNX file without metadata, so that it has these texts."""
    return b"".join(
        _field(_MODEL_METADATA, _field(1, key.encode()) + _field(2, text.encode())) for key, text in metadata.items()
    )


def _check_constants(graph: memoryview, name: str) -> None:
    """Raise WeightsError for weights that lie in other files: a stranger's file would choose which."""
    for tensor in _tensors(graph):
        if any(
            inner == _TENSOR_EXTERNAL or (inner == _TENSOR_LOCATION and tensor[start] != 0)
            for inner, _, start, _ in _fields(tensor)
        ):
            raise WeightsError(
                f"{name}: its weights lie in other files.",
                got="external data",
                expected="one file, as vitrail export writes it",
            )


def _tensors(graph: memoryview) -> Iterator[memoryview]:
    """The constants of a graph and of its nodes. Raises ValueError for a node that holds a graph."""
    for number, _, start, end in _fields(graph):
        if number == _GRAPH_CONSTANT:
            yield graph[start:end]
        if number != _GRAPH_NODE:
            continue
        node = graph[start:end]
        attributes = (node[a:b] for inner, _, a, b in _fields(node) if inner == _NODE_ATTRIBUTE)
        for attribute in attributes:
            for inner, _, a, b in _fields(attribute):
                if inner in _ATTRIBUTE_OTHERS:
                    raise ValueError("a node that holds a graph or a list of tensors, which no exported file has")
                if inner == _ATTRIBUTE_TENSOR:
                    yield attribute[a:b]


def _fields(message: memoryview) -> Iterator[tuple[int, int, int, int]]:
    """Number, first byte, and begin and end of the content of each field. Raises ValueError, IndexError."""
    at = 0
    while at < len(message):
        begin = at
        tag, at = _number(message, at)
        kind = tag & 7
        if kind == 0:
            start, (_, at) = at, _number(message, at)
        elif kind in (1, 5):
            start, at = at, at + (8 if kind == 1 else 4)
        elif kind == _BYTES:
            length, start = _number(message, at)
            at = start + length
        else:
            raise ValueError(f"a field of the unknown kind {kind}")
        if at > len(message):
            raise ValueError("it ends too early")
        yield tag >> 3, begin, start, at


def _number(message: memoryview, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and the place after it."""
    value = 0
    for place in range(_MOST_NUMBER_BYTES):
        byte = message[at + place]
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, at + place + 1
    raise ValueError("a number of more than ten bytes")


def _field(number: int, content: bytes) -> bytes:
    return _as_number(number << 3 | _BYTES) + _as_number(len(content)) + content


def _as_number(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
