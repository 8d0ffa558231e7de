"""Constants and the arithmetic of shapes: operators whose results are known while a model is imported."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx

from waterline.errors import InvalidModel
from waterline.frontends.onnx.call import Call, Converter, Converters
from waterline.frontends.onnx.storage import NUMPY_TYPES, type_name
from waterline.frontends.onnx.values import Constant, RefusalError, Tensor, Value
from waterline.graph.ops import broadcast

TensorProto = onnx.TensorProto


def constant(call: Call) -> Value:
    attributes = call.attributes
    if "value" in attributes:
        array = call.tensor_attribute("value")
    elif "value_float" in attributes:
        array = np.asarray(attributes.number("value_float", 0.0), np.float32)
    elif "value_floats" in attributes:
        array = np.asarray(attributes.numbers("value_floats"), np.float32)
    elif "value_int" in attributes:
        array = np.asarray(attributes.integer("value_int", 0), np.int64)
    elif "value_ints" in attributes:
        array = np.asarray(attributes.integers("value_ints"), np.int64)
    else:
        raise RefusalError(f"it holds {', '.join(attributes.protos) or 'nothing'}")
    if array is None:
        raise InvalidModel("its value is missing")
    return Constant(array, next(iter(call.outputs), ""))


def constant_of_shape(call: Call) -> Value:
    """A view of one element: it takes memory when it is read as a tensor of the network."""
    sizes = call.integers(0)
    if any(d < 0 for d in sizes):
        raise InvalidModel(f"the shape {sizes} has negative sizes")
    value = call.tensor_attribute("value")
    value = np.zeros(1, np.float32) if value is None else value
    if value.size != 1:
        raise InvalidModel(f"value has {value.size} elements, one is expected")
    _check_size(call, math.prod(sizes) * value.itemsize, sizes)
    return Constant(np.broadcast_to(value.reshape(()), sizes), next(iter(call.outputs), ""))


def _check_size(call: Call, count_bytes: int, shape: tuple[int, ...]) -> None:
    limit = call.builder.budget.limit_bytes
    if count_bytes > limit:
        raise InvalidModel(f"a constant of the shape {shape} has {count_bytes} bytes, {limit} are allowed")


def shape(call: Call) -> Value:
    sizes = call.value(0).shape
    start, end = call.attributes.integer("start", 0), call.attributes.integer("end", len(sizes))
    return Constant(np.asarray(sizes[start:end], np.int64))


def size(call: Call) -> Value:
    return Constant(np.asarray(math.prod(call.value(0).shape), np.int64))


def range_(call: Call) -> Value:
    start, limit, delta = (call.array(position) for position in range(3))
    if start.size != 1 or limit.size != 1 or delta.size != 1:
        raise InvalidModel("start, limit and delta must be scalars")
    first, last, step = (array.reshape(-1)[0].item() for array in (start, limit, delta))
    if step == 0 or not all(map(math.isfinite, (first, last, step))):
        raise InvalidModel(f"range from {first} to {last} by {step}")
    if isinstance(first, float):
        count = max(math.ceil((last - first) / step), 0)
    else:
        count = max(-(-(last - first) // step), 0)
    call.builder.budget.take(count * start.itemsize)
    return Constant((np.arange(count) * step + first).astype(start.dtype))


def cast(call: Call) -> Value:
    """Of constants to anything; of activations only where the element type stays."""
    x = call.value(0)
    target = call.attributes.integer("to", TensorProto.UNDEFINED)
    if isinstance(x, Tensor):
        if type_name(target) == x.dtype:
            return x
        raise RefusalError(f"it makes {type_name(target)} of {x.dtype} at run time, and float32 is computed")
    if target not in NUMPY_TYPES:
        raise RefusalError(f"a constant is cast to {type_name(target)}")
    call.builder.budget.take(x.array.size * np.dtype(NUMPY_TYPES[target]).itemsize)
    with np.errstate(all="ignore"):
        return Constant(x.array.astype(NUMPY_TYPES[target]), x.name)


def cast_like(call: Call) -> Value:
    x, like = call.value(0), call.value(1)
    dtype = like.dtype if isinstance(like, Tensor) else str(like.array.dtype)
    if isinstance(x, Tensor):
        if dtype == x.dtype:
            return x
        raise RefusalError(f"it makes {dtype} of {x.dtype} at run time, and float32 is computed")
    call.builder.budget.take(x.array.size * np.dtype(dtype).itemsize)
    with np.errstate(all="ignore"):
        return Constant(x.array.astype(dtype), x.name)


# ---- functions of constants only ------------------------------------------------------------------------------------
def known(function: Callable[..., np.ndarray]) -> Converter:
    """An operator with broadcasting whose inputs must all be constants."""

    def convert(call: Call) -> Value:
        arrays = [call.array(position) for position in range(len(call.inputs))]
        if not arrays:
            raise InvalidModel("it has no inputs")
        count = math.prod(broadcast(*(array.shape for array in arrays)))
        call.builder.budget.take(count * max(array.itemsize for array in arrays))
        with np.errstate(all="ignore"):
            return Constant(np.asarray(function(*arrays)))

    return convert


def mod(call: Call) -> Value:
    """The sign of the divisor, or with `fmod` that of the dividend."""
    return known(np.fmod if call.attributes.integer("fmod", 0) else np.mod)(call)


def where(call: Call) -> Value:
    """With a known condition that is the same everywhere, one of the inputs."""
    condition = call.array(0)
    x, y = call.value(1), call.value(2)
    if isinstance(x, Constant) and isinstance(y, Constant):
        return known(np.where)(call)
    chosen = x if condition.all() else y if not condition.any() else None
    result = broadcast(condition.shape, x.shape, y.shape)
    if chosen is None or chosen.shape != result:
        raise RefusalError("it chooses element by element at run time")
    return chosen


def reduce_product(call: Call) -> Value:
    array = call.array(0)
    axes = call.axes("axes", 1, 18)
    if not axes and call.attributes.integer("noop_with_empty_axes", 0):
        return call.value(0)
    keepdims = bool(call.attributes.integer("keepdims", 1))
    return Constant(np.asarray(np.prod(array, axis=axes or None, keepdims=keepdims, dtype=array.dtype)))


def by_definition(call: Call) -> list[Value]:
    """Operators that position embeddings and the like are made of: ONNX's own evaluation of a constant node."""
    from onnx.reference import ReferenceEvaluator  # takes a while to import, and is rarely needed

    arrays = [call.array(position) if call.has(position) else None for position in range(len(call.inputs))]
    given = {f"x{i}": array for i, array in enumerate(arrays) if array is not None}
    call.builder.budget.take(2 * sum(array.nbytes for array in given.values()))
    outputs = [f"y{i}" for i in range(len(call.outputs))]
    node = onnx.helper.make_node(call.kind, [f"x{i}" if f"x{i}" in given else "" for i in range(len(arrays))], outputs)
    node.attribute.extend(call.attributes.protos.values())
    infos = [
        [onnx.helper.make_value_info(name, onnx.TypeProto()) for name in names] for names in (list(given), outputs)
    ]
    graph = onnx.helper.make_graph([node], "constant", *infos)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", call.opset)])
    with np.errstate(all="ignore"):
        results = ReferenceEvaluator(model).run(None, given)
    return [Constant(np.asarray(result)) for result in results]


# None of them makes its result larger than its inputs together, so that hostile files cannot exhaust the memory.
BY_DEFINITION = ("CumSum", "GatherElements", "GatherND", "NonZero", "ScatterElements", "ScatterND", "Trilu")

FUNCTIONS: dict[str, Callable[..., np.ndarray]] = {
    "Equal": np.equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "And": np.logical_and,
    "Or": np.logical_or,
    "Xor": np.logical_xor,
    "Not": np.logical_not,
    "Sign": np.sign,
    "Round": np.round,
    "Sin": np.sin,
    "Cos": np.cos,
}

CONVERTERS: Converters = {
    **{operator: known(function) for operator, function in FUNCTIONS.items()},
    **{operator: by_definition for operator in BY_DEFINITION},
    "Constant": constant,
    "ConstantOfShape": constant_of_shape,
    "Shape": shape,
    "Size": size,
    "Range": range_,
    "Cast": cast,
    "CastLike": cast_like,
    "Mod": mod,
    "Where": where,
    "ReduceProd": reduce_product,
}
