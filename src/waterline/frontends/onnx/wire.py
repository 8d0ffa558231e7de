"""`strip`: an ONNX file without the bytes of its weights, and where those bytes are.

A model file is one protobuf message. Parsing it whole copies every weight at least twice and fails beyond 2 GB. The
path to a weight is short and fixed, though: field 7 of the model is the graph, field 5 of the graph an initializer,
field 9 of that its raw bytes (or field 4: packed floats). So this walks the headers of those three levels, cuts the
payloads out and leaves a message of kilobytes to the protobuf library.

Source: the Protocol Buffers encoding guide (varints, tags, length-delimited records); onnx.proto for the numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from waterline.errors import InvalidModel

GRAPH_OF_MODEL = 7
INITIALIZER_OF_GRAPH = 5
DATA_TYPE_OF_TENSOR = 2
FLOAT_DATA_OF_TENSOR = 4
RAW_DATA_OF_TENSOR = 9
FLOAT = 1  # TensorProto.DataType

VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class Span:
    """Bytes `begin` to `begin + length` of the file: the little-endian elements of one initializer."""

    begin: int
    length: int


@dataclass(frozen=True)
class Field:
    """One record: its number and wire type, where its tag, its payload and the next record begin."""

    number: int
    wire: int
    begin: int
    body: int
    end: int


def strip(data: memoryview) -> tuple[bytes, list[Span | None]]:
    """Returns the message without its initializers' payloads and, for each initializer in order, its payload's place.

    None stands for an initializer whose elements are kept in other fields (or outside the file).

    Raises:
        InvalidModel: a record reaches beyond the one that contains it, or the tags make no sense.
    """
    spans: list[Span | None] = []
    pieces: list[bytes] = []
    kept = 0
    for field in fields(data, 0, len(data)):
        if field.number == GRAPH_OF_MODEL and field.wire == DELIMITED:
            graph = _strip_graph(data, field, spans)
            pieces += [bytes(data[kept : field.begin]), _tag(GRAPH_OF_MODEL), _varint(len(graph)), graph]
            kept = field.end
    pieces.append(bytes(data[kept:]))
    return b"".join(pieces), spans


def _strip_graph(data: memoryview, graph: Field, spans: list[Span | None]) -> bytes:
    pieces: list[bytes] = []
    kept = graph.body
    for field in fields(data, graph.body, graph.end):
        if field.number != INITIALIZER_OF_GRAPH or field.wire != DELIMITED:
            continue
        payload = _payload(data, field)
        spans.append(None if payload is None else Span(payload.body, payload.end - payload.body))
        if payload is not None:
            tensor = bytes(data[field.body : payload.begin]) + bytes(data[payload.end : field.end])
            pieces += [bytes(data[kept : field.begin]), _tag(INITIALIZER_OF_GRAPH), _varint(len(tensor)), tensor]
            kept = field.end
    pieces.append(bytes(data[kept : graph.end]))
    return b"".join(pieces)


def _payload(data: memoryview, tensor: Field) -> Field | None:
    """The record with the elements, if there is exactly one that can be used as it lies."""
    raw: list[Field] = []
    floats: list[Field] = []
    data_type = 0
    for field in fields(data, tensor.body, tensor.end):
        if field.number == RAW_DATA_OF_TENSOR and field.wire == DELIMITED:
            raw.append(field)
        elif field.number == FLOAT_DATA_OF_TENSOR:
            floats.append(field)
        elif field.number == DATA_TYPE_OF_TENSOR and field.wire == VARINT:
            data_type = _read_varint(data, field.body, field.end)[0]
    if len(raw) == 1 and not floats:
        return raw[0]
    if len(floats) == 1 and not raw and floats[0].wire == DELIMITED and data_type == FLOAT:
        return floats[0]
    return None


def fields(data: memoryview, begin: int, end: int) -> Iterator[Field]:
    """The records between `begin` and `end`."""
    position = begin
    while position < end:
        tag, body = _read_varint(data, position, end)
        wire = tag & 7
        if wire == DELIMITED:
            length, body = _read_varint(data, body, end)
            stop = body + length
        elif wire == VARINT:
            stop = _read_varint(data, body, end)[1]
        elif wire in (FIXED32, FIXED64):
            stop = body + (4 if wire == FIXED32 else 8)
        else:
            raise _damaged(position)
        if stop > end or tag >> 3 == 0:
            raise _damaged(position)
        yield Field(tag >> 3, wire, position, body, stop)
        position = stop


def _read_varint(data: memoryview, position: int, end: int) -> tuple[int, int]:
    """The number at `position` and the position after it."""
    value = shift = 0
    while position < end and shift < 70:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise _damaged(position)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _tag(number: int) -> bytes:
    return _varint(number << 3 | DELIMITED)


def _damaged(position: int) -> InvalidModel:
    return InvalidModel(
        f"this is not an ONNX model, or it is damaged: byte {position} starts no complete record",
        "was the file downloaded and copied whole?",
    )
