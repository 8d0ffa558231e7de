"""Where the elements of a model's constants are, and how they become arrays.

Elements inside the model file are read from it straight into an array each: one copy, aligned, independent of the
file afterwards. Elements in files of their own (external data, the form of very large models) are memory-mapped.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from waterline.errors import InvalidModel
from waterline.frontends.onnx.values import RefusalError

TensorProto = onnx.TensorProto

# The element types that lie in memory as NumPy has them.
NUMPY_TYPES: dict[int, str] = {
    TensorProto.FLOAT: "<f4",
    TensorProto.DOUBLE: "<f8",
    TensorProto.FLOAT16: "<f2",
    TensorProto.INT8: "<i1",
    TensorProto.INT16: "<i2",
    TensorProto.INT32: "<i4",
    TensorProto.INT64: "<i8",
    TensorProto.UINT8: "<u1",
    TensorProto.UINT16: "<u2",
    TensorProto.UINT32: "<u4",
    TensorProto.UINT64: "<u8",
    TensorProto.BOOL: "?",
}


def type_name(data_type: int) -> str:
    """NumPy's name of an ONNX element type, or ONNX's own in lower case, e.g. `float32`, `bfloat16`, `string`."""
    if data_type in NUMPY_TYPES:
        return np.dtype(NUMPY_TYPES[data_type]).name
    known = TensorProto.DataType.values()
    return TensorProto.DataType.Name(data_type).lower() if data_type in known else f"unknown type {data_type}"


@dataclass(frozen=True)
class Blob:
    """`length` bytes at `offset` of a file (`mapped` or read) or of bytes in memory."""

    source: Path | memoryview
    offset: int
    length: int
    mapped: bool = False

    def array(self, dtype: str, count: int) -> np.ndarray:
        """The elements as a flat, aligned array. The caller has checked that `length` is `count` elements."""
        if count == 0:
            return np.empty(0, dtype)
        if isinstance(self.source, memoryview):
            array = np.frombuffer(self.source, dtype, count, self.offset)
        elif self.mapped:
            array = np.asarray(np.memmap(self.source, dtype, "r", self.offset, (count,)))
        else:
            array = np.fromfile(self.source, dtype, count, offset=self.offset)
            if array.size != count:
                raise InvalidModel(f"{str(self.source)!r} became shorter while it was read")
        return array if array.flags.aligned else array.copy()


def decode(tensor: onnx.TensorProto, blob: Blob | None, model_path: Path | None, what: str) -> np.ndarray:
    """The array that a TensorProto stands for.

    Args:
        tensor: a TensorProto.
        blob: its payload where that was cut out of the message.
        model_path: the model's file, beside which external data lies; None if the model did not come from a file.
        what: how messages call it, e.g. "initializer 'conv1.weight'".

    Raises:
        InvalidModel: sizes do not fit, or external data is missing or outside the folder.
        RefusalError: an element type that is not read (strings, 4-bit numbers).
    """
    shape = tuple(tensor.dims)
    if any(d < 0 for d in shape):
        raise InvalidModel(f"{what} has the shape {shape}: sizes are not negative")
    if tensor.data_type == TensorProto.UNDEFINED:
        raise InvalidModel(f"{what} has no element type")
    if tensor.data_location == TensorProto.EXTERNAL:
        blob = external(tensor, model_path, what)
    dtype = NUMPY_TYPES.get(tensor.data_type)
    if dtype is None and tensor.data_type != TensorProto.BFLOAT16:
        raise RefusalError(f"{what} has elements of type {type_name(tensor.data_type)}")
    count = math.prod(shape)
    if blob is None and not tensor.HasField("raw_data"):
        return _from_fields(tensor, shape, what)
    if blob is None:
        raw = tensor.raw_data
        blob = Blob(memoryview(raw), 0, len(raw))
    element_bytes = 2 if dtype is None else np.dtype(dtype).itemsize
    if blob.length != count * element_bytes:
        expected = f"{shape} of {type_name(tensor.data_type)}, {count * element_bytes} bytes"
        raise InvalidModel(
            f"{what} has the shape {expected}, but {blob.length} bytes of data",
            "the file is truncated or damaged",
        )
    if dtype is None:
        return _from_bfloat16(blob.array("<u2", count)).reshape(shape)
    return blob.array(dtype, count).reshape(shape)


def _from_bfloat16(bits: np.ndarray) -> np.ndarray:
    """bfloat16 is the upper half of a float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _from_fields(tensor: onnx.TensorProto, shape: tuple[int, ...], what: str) -> np.ndarray:
    """Elements in the typed, repeated fields: small tensors written by hand, mostly."""
    try:
        array = onnx.numpy_helper.to_array(tensor)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidModel(f"{what} has the shape {shape} and data that does not fit it: {one_line(error)}") from error
    if array.shape != shape:
        raise InvalidModel(f"{what} has the shape {shape} and data for {array.shape}")
    return array.astype(np.float32) if tensor.data_type == TensorProto.BFLOAT16 else array


def external(tensor: onnx.TensorProto, model_path: Path | None, what: str) -> Blob:
    """The place of a tensor's external data, which must be a plain file in the model's folder or below.

    Raises:
        InvalidModel: no folder, a path that leaves it, a missing or short file, offsets that make no sense.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if model_path is None:
        raise InvalidModel(
            f"{what} has its data in the file {location!r}, and the model was given without its folder",
            "pass the path of the model instead of its bytes",
        )
    path = _beside(model_path, location, what)
    try:
        size = path.stat().st_size
        offset = int(entries.get("offset") or 0)
        length = int(entries.get("length") or size - offset)
    except (OSError, ValueError) as error:
        raise InvalidModel(f"{what}: external data in {location!r} cannot be found: {one_line(error)}") from error
    if offset < 0 or length < 0 or offset + length > size:
        raise InvalidModel(
            f"{what} has its data at bytes {offset} to {offset + length} of {location!r}, which has {size}",
            "the file is truncated or belongs to another model",
        )
    return Blob(path, offset, length, mapped=True)


def _beside(model_path: Path, location: str, what: str) -> Path:
    """Where `location` leads from the model's folder.

    Links are followed, because download caches consist of links, but only to places inside that folder or inside the
    folder in which the model itself really lies.
    """
    escaped = InvalidModel(
        f"{what} has its data in {location!r}, outside the model's folder", "external data must lie beside the model"
    )
    if not location or "\0" in location or os.path.isabs(location) or ".." in Path(location).parts:
        raise escaped
    try:
        roots = (model_path.parent.resolve(), model_path.resolve().parent)
        path = (model_path.parent / location).resolve()
        is_file = path.is_file()
    except (OSError, RuntimeError, ValueError) as error:
        raise InvalidModel(f"{what}: external data in {location!r} cannot be opened: {one_line(error)}") from error
    if not any(path.is_relative_to(root) for root in roots):
        raise escaped
    if not is_file:
        raise InvalidModel(f"{what} has its data in {location!r}, and there is no such file beside the model")
    return path


def one_line(error: BaseException) -> str:
    """The first line of an error's text, or its type where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
