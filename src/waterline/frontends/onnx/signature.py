"""What a model takes and gives: names, shapes with symbolic sizes, element types; and sizes for the symbols."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx

from waterline.errors import InvalidArgument, InvalidModel
from waterline.frontends.onnx.storage import type_name
from waterline.graph.ops import Shape

# Types of ONNX Runtime's signatures, which users of `get_inputs()` know.
RUNTIME_TYPES = {"float32": "float", "float64": "double"}


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of a model.

    Attributes:
        name: as in the file.
        shape: a number, a symbol's name or None (unknown) for each axis; None if not even the rank is known.
        dtype: NumPy's name of the element type, e.g. `float32`; or `sequence`, `map`, `optional`, `sparse tensor`.
    """

    name: str
    shape: tuple[int | str | None, ...] | None
    dtype: str

    @property
    def type(self) -> str:
        """In ONNX Runtime's spelling, e.g. `tensor(float)`."""
        return f"tensor({RUNTIME_TYPES.get(self.dtype, self.dtype)})"


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs in the model's order; initializers that the file lists as inputs are not among them."""

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]


def describe(info: onnx.ValueInfoProto, role: str) -> TensorInfo:
    """A ValueInfoProto as data. Raises InvalidModel for negative sizes and missing names."""
    if not info.name:
        raise InvalidModel(f"an {role} of the model has no name")
    kind = info.type.WhichOneof("value")
    if kind is None:
        return TensorInfo(info.name, None, "unknown type")
    if kind != "tensor_type":
        return TensorInfo(info.name, None, kind.removesuffix("_type").replace("_", " "))
    tensor = info.type.tensor_type
    dtype = type_name(tensor.elem_type)
    if not tensor.HasField("shape"):
        return TensorInfo(info.name, None, dtype)
    dims: list[int | str | None] = []
    for dim in tensor.shape.dim:
        if dim.HasField("dim_value"):
            if dim.dim_value < 0:
                raise InvalidModel(
                    f"the {role} {info.name!r} has a size of {dim.dim_value}",
                    "sizes that vary have a name (dim_param) instead of a value",
                )
            dims.append(dim.dim_value)
        else:
            dims.append(dim.dim_param or None)
    return TensorInfo(info.name, tuple(dims), dtype)


def resolve(inputs: Sequence[TensorInfo], given: Mapping[str, Iterable[int]] | None) -> dict[str, Shape]:
    """A whole-number shape for every input.

    The sizes come from the file, else from `given`, else from the same symbol in another input's given shape; a first
    axis (the batch) without a size is 1. The batch may be given even where the file has another one.

    Raises:
        InvalidArgument: a name that is no input, a shape that contradicts the file, a size that nothing tells.
    """
    shapes = {name: _checked(name, shape, inputs) for name, shape in (given or {}).items()}
    symbols: dict[str, int] = {}
    for info in inputs:
        if info.name in shapes:
            _bind(info, shapes[info.name], symbols)
    return {info.name: shapes[info.name] if info.name in shapes else _default(info, symbols) for info in inputs}


def _checked(name: str, shape: Iterable[int], inputs: Sequence[TensorInfo]) -> Shape:
    names = [info.name for info in inputs]
    if name not in names:
        close = difflib.get_close_matches(str(name), names, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"the inputs are {', '.join(map(repr, names))}"
        raise InvalidArgument(f"input_shapes names {name!r}, which is no input of the model", hint)
    try:
        sizes = tuple(d.__index__() for d in shape)
    except (TypeError, AttributeError) as error:
        raise InvalidArgument(
            f"input_shapes gives {shape!r} for {name!r}: a shape is a sequence of whole numbers"
        ) from error
    if any(d < 0 for d in sizes):
        raise InvalidArgument(f"input_shapes gives {sizes} for {name!r}: sizes are not negative")
    return sizes


def _bind(info: TensorInfo, shape: Shape, symbols: dict[str, int]) -> None:
    """Check a given shape against the file's and remember the symbols it settles."""
    if info.shape is None:
        return
    if len(shape) != len(info.shape):
        raise InvalidArgument(f"input_shapes gives {shape} for {info.name!r}, which has the rank {len(info.shape)}")
    for axis, (size, declared) in enumerate(zip(shape, info.shape, strict=True)):
        if isinstance(declared, str):
            if symbols.setdefault(declared, size) != size:
                raise InvalidArgument(f"input_shapes gives {declared!r} two sizes, {symbols[declared]} and {size}")
        elif declared is not None and declared != size and axis > 0:
            raise InvalidArgument(
                f"input_shapes gives {shape} for {info.name!r}, whose axis {axis} is {declared} in the model",
                "only symbolic sizes and the batch can be chosen",
            )


def _default(info: TensorInfo, symbols: Mapping[str, int]) -> Shape:
    if info.shape is None:
        raise InvalidArgument(
            f"the shape of the input {info.name!r} is not in the model",
            f"pass input_shapes={{{info.name!r}: (...)}}",
        )
    sizes: list[int] = []
    for axis, declared in enumerate(info.shape):
        if isinstance(declared, int):
            sizes.append(declared)
        elif declared is not None and declared in symbols:
            sizes.append(symbols[declared])
        elif axis == 0:
            sizes.append(1)
        else:
            shown = ", ".join("?" if d is None else str(d) for d in info.shape)
            raise InvalidArgument(
                f"the input {info.name!r} has the shape ({shown}), and nothing tells the size of axis {axis}",
                f"pass input_shapes={{{info.name!r}: (...)}} with whole numbers",
            )
    return tuple(sizes)
