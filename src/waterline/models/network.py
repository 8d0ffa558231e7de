"""`Network`: writes an ONNX model layer by layer, with random weights that keep every activation near one.

Every tensor carries an estimate of its mean and variance, as if it were normally distributed. A layer with weights
divides by the mean square, so that its result has a variance of about one whatever came before: a hundred layers deep
nothing overflows and nothing fades, and the errors that a test measures are those of the arithmetic.

Initializers are named as the parameters of torchvision's module of the same name, so weights can be copied over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper

from waterline.errors import InvalidArgument
from waterline.spec import ConvSpec

OPSET = 20  # the first one with Gelu
IR_VERSION = 9

# The variance that BatchNorm's random parameters (see `Network.batch_norm`) make of a tensor that they were drawn for:
# E[scale^2] E[1 / variance] (1 + E[mean^2]) + E[bias^2]. Taking it for one would be wrong to the power of the depth.
_NORM_VARIANCE = (1 + 0.8**2 / 12) * (math.log(1.4 / 0.6) / 0.8) * (1 + 0.1**2) + 0.1**2

_POINTS, _WEIGHTS = np.polynomial.hermite_e.hermegauss(40)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


@dataclass(frozen=True)
class Tensor:
    """A value in the network: its name, its shape without the batch, and its estimated distribution."""

    name: str
    shape: tuple[int, ...]
    mean: float = 0.0
    variance: float = 1.0

    @property
    def channels(self) -> int:
        return self.shape[0]

    @property
    def mean_square(self) -> float:
        return self.mean**2 + self.variance

    def through(self, function: Callable[[np.ndarray], np.ndarray]) -> tuple[float, float]:
        """Mean and variance of a function of this tensor (Gauss-Hermite quadrature)."""
        values = function(self.mean + math.sqrt(self.variance) * _POINTS)
        mean = float(_WEIGHTS @ values)
        return mean, float(_WEIGHTS @ values**2) - mean**2


class Network:
    """An ONNX graph under construction.

    Args:
        name: the graph's name.
        image_size: height and width of the input, which has three channels and the symbolic batch `N`.
        seed: of the weights; None leaves them out, all but their names and shapes.
    """

    def __init__(self, name: str, image_size: int, seed: int | None = 0) -> None:
        self.name = name
        self.image_size = image_size
        self.input = Tensor("input", (3, image_size, image_size))
        self.convolutions: list[tuple[str, ConvSpec]] = []
        self._rng = None if seed is None else np.random.Generator(np.random.SFC64(seed))
        # Weights go straight into the model that is returned: each copy of half a gigabyte costs a second.
        self._model = ModelProto(ir_version=IR_VERSION, producer_name="waterline.models")
        self._model.opset_import.append(helper.make_opsetid("", OPSET))
        self._model.graph.name = name
        self._names: set[str] = {"input", "output"}
        self._constants: dict[tuple, str] = {}

    # ---- layers with weights ------------------------------------------------------------------------------------
    def conv(
        self,
        x: Tensor,
        name: str,
        k: int,
        kernel: int | tuple[int, int],
        *,
        stride: int = 1,
        pad: int | tuple[int, int] = 0,
        groups: int = 1,
        bias: bool = False,
    ) -> Tensor:
        c, h, w = x.shape
        r, s = _pair(kernel)
        pads = _pair(pad) * 2
        spec = ConvSpec(1, c, h, w, k, r, s, stride=(stride, stride), pad=pads, groups=groups)
        self.convolutions.append((name, spec))
        fan_in = spec.group_c * spec.taps
        inputs = [x.name, self._normal(f"{name}.weight", (k, spec.group_c, r, s), (fan_in * x.mean_square) ** -0.5)]
        if bias:
            inputs.append(self._normal(f"{name}.bias", (k,), 0.1))
        attributes: dict[str, Any] = {
            "kernel_shape": [r, s],
            "strides": [stride, stride],
            "pads": list(pads),
            "dilations": [1, 1],
            "group": groups,
        }
        return self._node("Conv", name, inputs, (k, spec.p, spec.q), **attributes)

    def batch_norm(self, x: Tensor, name: str, epsilon: float = 1e-5) -> Tensor:
        """Statistics that are near the tensor's own, but not equal: folding them away is real work."""
        c = x.channels
        scale = self._uniform(f"{name}.weight", (c,), 0.6, 1.4)
        bias = self._normal(f"{name}.bias", (c,), 0.1)
        mean = self._normal(f"{name}.running_mean", (c,), 0.1 * math.sqrt(x.mean_square))
        variance = self._uniform(f"{name}.running_var", (c,), 0.6 * x.mean_square, 1.4 * x.mean_square)
        inputs = [x.name, scale, bias, mean, variance]
        return self._node("BatchNormalization", name, inputs, x.shape, (0.0, _NORM_VARIANCE), epsilon=epsilon)

    def layer_norm(self, x: Tensor, name: str, epsilon: float = 1e-6) -> Tensor:
        """Over the last axis."""
        c = x.shape[-1]
        inputs = [x.name, self._uniform(f"{name}.weight", (c,), 0.6, 1.4), self._normal(f"{name}.bias", (c,), 0.1)]
        return self._node("LayerNormalization", name, inputs, x.shape, axis=-1, epsilon=epsilon)

    def linear(self, x: Tensor, name: str, k: int) -> Tensor:
        """x (c): a Gemm."""
        weight = self._normal(f"{name}.weight", (k, x.channels), (x.channels * x.mean_square) ** -0.5)
        bias = self._normal(f"{name}.bias", (k,), 0.1)
        return self._node("Gemm", name, [x.name, weight, bias], (k,), transB=1)

    def matmul(self, x: Tensor, name: str, k: int) -> Tensor:
        """x (..., c): a fully connected layer of more than two dimensions, MatMul and Add; the weight is (c, k)."""
        c = x.shape[-1]
        weight = self._normal(f"{name}.weight", (c, k), (c * x.mean_square) ** -0.5)
        product = self._node("MatMul", f"{name}.matmul", [x.name, weight], (*x.shape[:-1], k))
        bias = self._normal(f"{name}.bias", (k,), 0.1)
        return self._node("Add", name, [product.name, bias], product.shape)

    def scale(self, x: Tensor, name: str, around: float) -> Tensor:
        """Multiply by a parameter a channel, (c, 1, 1): ConvNeXt's layer scale."""
        factor = self._uniform(name, (x.channels, 1, 1), 0.6 * around, 1.4 * around)
        return self._node("Mul", f"{name}.mul", [factor, x.name], x.shape, (x.mean * around, x.variance * around**2))

    # ---- element by element -------------------------------------------------------------------------------------
    def activation(self, x: Tensor, kind: str) -> Tensor:
        """`kind` is relu, relu6, silu, hard_swish, gelu, sigmoid or hard_sigmoid."""
        return getattr(self, kind)(x)

    def relu(self, x: Tensor) -> Tensor:
        return self._node("Relu", self._unique(f"{x.name}.relu"), [x.name], x.shape, x.through(_relu))

    def relu6(self, x: Tensor) -> Tensor:
        low, high = self._scalar(0.0), self._scalar(6.0)
        name = self._unique(f"{x.name}.clip")
        return self._node("Clip", name, [x.name, low, high], x.shape, x.through(lambda v: np.clip(v, 0, 6)))

    def silu(self, x: Tensor) -> Tensor:
        """Sigmoid and Mul, as it is exported."""
        gate = self.sigmoid(x)
        moments = x.through(lambda v: v * _sigmoid(v))
        return self._node("Mul", self._unique(f"{x.name}.silu"), [x.name, gate.name], x.shape, moments)

    def hard_swish(self, x: Tensor) -> Tensor:
        moments = x.through(lambda v: v * _hard_sigmoid(v))
        return self._node("HardSwish", self._unique(f"{x.name}.hard_swish"), [x.name], x.shape, moments)

    def gelu(self, x: Tensor) -> Tensor:
        moments = x.through(lambda v: v * _sigmoid(1.702 * v))  # near enough for an estimate
        return self._node("Gelu", self._unique(f"{x.name}.gelu"), [x.name], x.shape, moments)

    def sigmoid(self, x: Tensor) -> Tensor:
        return self._node("Sigmoid", self._unique(f"{x.name}.sigmoid"), [x.name], x.shape, x.through(_sigmoid))

    def hard_sigmoid(self, x: Tensor) -> Tensor:
        name = self._unique(f"{x.name}.hard_sigmoid")
        return self._node("HardSigmoid", name, [x.name], x.shape, x.through(_hard_sigmoid), alpha=1 / 6, beta=0.5)

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        name = self._unique(f"{a.name}.add")
        return self._node("Add", name, [a.name, b.name], a.shape, (a.mean + b.mean, a.variance + b.variance))

    def mul(self, a: Tensor, gate: Tensor) -> Tensor:
        """`gate` (c, 1, 1) times `a` (c, h, w)."""
        name = self._unique(f"{a.name}.mul")
        mean = a.mean * gate.mean
        moments = (mean, a.mean_square * gate.mean_square - mean**2)
        return self._node("Mul", name, [gate.name, a.name], a.shape, moments)

    # ---- windows ------------------------------------------------------------------------------------------------
    def max_pool(self, x: Tensor, kernel: int, stride: int, pad: int = 0, ceil_mode: bool = False) -> Tensor:
        moments = (x.mean + 0.4 * math.sqrt(x.variance), x.variance)
        return self._pool("MaxPool", x, kernel, stride, pad, ceil_mode, moments, {})

    def average_pool(self, x: Tensor, kernel: int, stride: int, pad: int = 0) -> Tensor:
        """Counts the padding, as PyTorch does."""
        return self._pool(
            "AveragePool", x, kernel, stride, pad, False, (x.mean, 0.6 * x.variance), {"count_include_pad": 1}
        )

    def global_average_pool(self, x: Tensor) -> Tensor:
        name = self._unique(f"{x.name}.pool")
        return self._node("GlobalAveragePool", name, [x.name], (x.channels, 1, 1), (x.mean, 0.4 * x.variance))

    def mean(self, x: Tensor) -> Tensor:
        """x (c, h, w) -> (c): ReduceMean, as `tensor.mean([2, 3])` is exported."""
        axes = self._integers([2, 3])
        name = self._unique(f"{x.name}.mean")
        return self._node("ReduceMean", name, [x.name, axes], (x.channels,), (x.mean, 0.4 * x.variance), keepdims=0)

    def adaptive_average_pool(self, x: Tensor, size: int) -> Tensor:
        """To `size` x `size`. Nothing where the tensor has that size, as exporters do.

        Raises:
            InvalidArgument: the tensor's size is no multiple (exporters refuse this too).
        """
        _, h, w = x.shape
        if h % size or w % size:
            raise InvalidArgument(
                f"{self.name} at {self.image_size}x{self.image_size} ends in {h}x{w} pixels, not a multiple of {size}",
                "leave the image size at its default, or choose one that the network's strides divide",
            )
        return x if h == w == size else self.average_pool(x, h // size, h // size)

    # ---- moving data --------------------------------------------------------------------------------------------
    def flatten(self, x: Tensor) -> Tensor:
        return self._node(
            "Flatten", self._unique(f"{x.name}.flatten"), [x.name], (math.prod(x.shape),), (x.mean, x.variance), axis=1
        )

    def concat(self, tensors: Sequence[Tensor], name: str) -> Tensor:
        """Along channels."""
        channels = sum(t.channels for t in tensors)
        mean = sum(t.channels * t.mean for t in tensors) / channels
        variance = sum(t.channels * t.mean_square for t in tensors) / channels - mean**2
        shape = (channels, *tensors[0].shape[1:])
        return self._node("Concat", self._unique(name), [t.name for t in tensors], shape, (mean, variance), axis=1)

    def halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The first and the second half of the channels: Split."""
        half = x.channels // 2
        name = self._unique(f"{x.name}.split")
        outputs = [f"{name}.0", f"{name}.1"]
        sizes = self._integers([half, half])
        self._model.graph.node.append(helper.make_node("Split", [x.name, sizes], outputs, name=name, axis=1))
        first, second = (Tensor(output, (half, *x.shape[1:]), x.mean, x.variance) for output in outputs)
        return first, second

    def channel_shuffle(self, x: Tensor, groups: int) -> Tensor:
        """(groups, c / groups) -> (c / groups, groups): Reshape, Transpose, Reshape."""
        c, h, w = x.shape
        split = self._reshape(x, (groups, c // groups, h, w), "shuffle.split")
        swapped = self.transpose(split, (1, 0, 2, 3))
        return self._reshape(swapped, (c, h, w), "shuffle.join")

    def transpose(self, x: Tensor, perm: Sequence[int]) -> Tensor:
        """`perm` counts the axes without the batch."""
        name = self._unique(f"{x.name}.transpose")
        shape = tuple(x.shape[i] for i in perm)
        return self._node("Transpose", name, [x.name], shape, (x.mean, x.variance), perm=[0, *(i + 1 for i in perm)])

    # ---- the model ----------------------------------------------------------------------------------------------
    def finish(self, result: Tensor) -> ModelProto:
        """The model that ends with `result`, which must be what the last node wrote; it is renamed to `output`."""
        graph = self._model.graph
        assert graph.node[-1].output[0] == result.name
        graph.node[-1].output[0] = "output"
        graph.input.append(helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", *self.input.shape]))
        graph.output.append(helper.make_tensor_value_info("output", TensorProto.FLOAT, ["N", *result.shape]))
        return self._model

    # ---- the parts ----------------------------------------------------------------------------------------------
    def _node(
        self,
        op: str,
        name: str,
        inputs: list[str],
        shape: tuple[int, ...],
        moments: tuple[float, float] = (0.0, 1.0),
        **attributes: Any,
    ) -> Tensor:
        self._names.add(name)
        self._model.graph.node.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return Tensor(name, shape, *moments)

    def _pool(
        self,
        op: str,
        x: Tensor,
        kernel: int,
        stride: int,
        pad: int,
        ceil_mode: bool,
        moments: tuple[float, float],
        extra: dict[str, int],
    ) -> Tensor:
        c, *size = x.shape
        shape = (c, *(_pooled(d, kernel, stride, pad, ceil_mode) for d in size))
        attributes: dict[str, Any] = {
            "kernel_shape": [kernel, kernel],
            "strides": [stride, stride],
            "pads": [pad] * 4,
            "ceil_mode": int(ceil_mode),
        }
        name = self._unique(f"{x.name}.pool")
        return self._node(op, name, [x.name], shape, moments, **attributes, **extra)

    def _reshape(self, x: Tensor, shape: tuple[int, ...], suffix: str) -> Tensor:
        target = self._integers([0, *shape])  # 0: the batch as it is
        return self._node("Reshape", self._unique(f"{x.name}.{suffix}"), [x.name, target], shape, (x.mean, x.variance))

    def _unique(self, name: str) -> str:
        candidate, count = name, 1
        while candidate in self._names:
            count += 1
            candidate = f"{name}{count}"
        self._names.add(candidate)
        return candidate

    def _normal(self, name: str, shape: tuple[int, ...], deviation: float) -> str:
        if self._rng is None:
            return self._outline(name, shape)
        value = self._rng.standard_normal(shape, np.float32)
        if len(shape) == 4 and shape[1] == 1:  # each channel keeps its scale: no sum over channels averages it out
            value *= deviation * math.sqrt(math.prod(shape[1:])) / np.linalg.norm(value, axis=(2, 3), keepdims=True)
        else:
            value *= np.float32(deviation)
        return self._initializer(name, value)

    def _uniform(self, name: str, shape: tuple[int, ...], low: float, high: float) -> str:
        if self._rng is None:
            return self._outline(name, shape)
        value = self._rng.random(shape, np.float32) * np.float32(high - low) + np.float32(low)
        return self._initializer(name, value)

    def _outline(self, name: str, shape: tuple[int, ...]) -> str:
        self._model.graph.initializer.add(name=name, dims=shape, data_type=TensorProto.FLOAT)
        return name

    def _initializer(self, name: str, value: np.ndarray) -> str:
        self._model.graph.initializer.add(
            name=name,
            dims=value.shape,
            data_type=helper.np_dtype_to_tensor_dtype(value.dtype),
            raw_data=value.astype(value.dtype.newbyteorder("<"), copy=False).tobytes(),
        )
        return name

    def _integers(self, values: list[int]) -> str:
        return self._constant(("int64", *values), np.array(values, np.int64))

    def _scalar(self, value: float) -> str:
        return self._constant(("float32", value), np.array(value, np.float32))

    def _constant(self, key: tuple, value: np.ndarray) -> str:
        if key not in self._constants:
            self._constants[key] = self._initializer(f"constant.{len(self._constants)}", value)
        return self._constants[key]


def _relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _hard_sigmoid(x: np.ndarray) -> np.ndarray:
    return np.clip(x / 6 + 0.5, 0, 1)


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def _pooled(size: int, kernel: int, stride: int, pad: int, ceil_mode: bool) -> int:
    room = size + 2 * pad - kernel + (stride - 1 if ceil_mode else 0)
    count = room // stride + 1
    return count - 1 if ceil_mode and (count - 1) * stride >= size + pad else count
