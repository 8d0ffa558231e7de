"""The operations of a graph: frozen attributes and the rule for shapes. Values are in `waterline.reference`.

Every class documents its inputs in order; optional ones are present when the attribute in brackets says so.
Axes are never negative. Convolutions and pooling are two-dimensional: front ends turn (N, C, L) into (N, C, 1, L).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from waterline.graph.rules import Shape, arity, broadcast, require
from waterline.spec import Activation, ConvSpec, Epilogue

END = 2**63 - 1  # a slice's stop (or, going backwards, -END - 1): to the end, whatever the size


@dataclass(frozen=True)
class Op:
    """Base: `infer` maps the shapes of the inputs to the shapes of the outputs, or raises InvalidModel."""

    @property
    def name(self) -> str:
        return type(self).__name__

    def infer(self, inputs: list[Shape]) -> list[Shape]:
        raise NotImplementedError


# ---- layers with weights --------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Conv(Op):
    """x (N,C,H,W), weight (K,C/g,R,S), bias (K) [epilogue.bias], residual (N,K,P,Q) [epilogue.residual]."""

    stride: tuple[int, int] = (1, 1)
    pad: tuple[int, int, int, int] = (0, 0, 0, 0)  # top, left, bottom, right
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    epilogue: Epilogue = field(default=Epilogue())

    def spec(self, x: Shape, weight: Shape, dtype: str = "f32") -> ConvSpec:
        require(len(x) == 4 and len(weight) == 4, f"input {x} and weight {weight} must have rank 4")
        has_channels = x[1] == weight[1] * self.groups
        require(has_channels, f"input {x} has not {self.groups} x {weight[1]} channels of weight {weight}")
        n, c, h, w = x
        k, _, r, s = weight
        return ConvSpec(
            n, c, h, w, k, r, s, self.stride, self.pad, self.dilation, self.groups, dtype=dtype, epilogue=self.epilogue
        )

    def infer(self, inputs: list[Shape]) -> list[Shape]:
        arity(inputs, 2 + self.epilogue.bias + self.epilogue.residual)
        spec = self.spec(inputs[0], inputs[1])
        out = (spec.n, spec.k, spec.p, spec.q)
        check_epilogue(self.epilogue, inputs, spec.k, out)
        return [out]


@dataclass(frozen=True)
class ConvTranspose(Op):
    """x (N,C,H,W), weight (C,K/g,R,S), bias (K) [bias]: the gradient of `Conv` with respect to its input."""

    stride: tuple[int, int] = (1, 1)
    pad: tuple[int, int, int, int] = (0, 0, 0, 0)
    output_pad: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    bias: bool = False

    def infer(self, inputs: list[Shape]) -> list[Shape]:
        arity(inputs, 2 + self.bias)
        x, weight = inputs[0], inputs[1]
        require(len(x) == 4 and len(weight) == 4, f"input {x} and weight {weight} must have rank 4")
        has_channels = x[1] == weight[0] and x[1] % self.groups == 0
        require(has_channels, f"input {x}, weight {weight} and {self.groups} groups disagree")
        require(min(self.stride) > 0 and min(self.dilation) > 0, "stride and dilation must be at least 1")
        if self.bias:
            require(inputs[2] == (weight[1] * self.groups,), f"bias {inputs[2]} must be ({weight[1] * self.groups},)")
        size = [
            (x[2 + i] - 1) * self.stride[i]
            - self.pad[i]
            - self.pad[i + 2]
            + self.dilation[i] * (weight[2 + i] - 1)
            + self.output_pad[i]
            + 1
            for i in (0, 1)
        ]
        require(min(size) > 0, f"the output would be {size[0]}x{size[1]}")
        return [(x[0], weight[1] * self.groups, size[0], size[1])]


@dataclass(frozen=True)
class Linear(Op):
    """x (..., C), weight (K, C), bias (K) [epilogue.bias], residual (..., K) [epilogue.residual]."""

    epilogue: Epilogue = field(default=Epilogue())

    def spec(self, x: Shape, weight: Shape, dtype: str = "f32") -> ConvSpec:
        """The same as a 1x1 convolution: the first axis is the batch, the others are rows of pixels."""
        require(len(x) >= 1 and len(weight) == 2 and x[-1] == weight[1], f"input {x} does not fit weight {weight}")
        n = x[0] if len(x) > 1 else 1
        return ConvSpec(n, x[-1], math.prod(x[1:-1]), 1, weight[0], 1, 1, dtype=dtype, epilogue=self.epilogue)

    def infer(self, inputs: list[Shape]) -> list[Shape]:
        arity(inputs, 2 + self.epilogue.bias + self.epilogue.residual)
        x, weight = inputs[0], inputs[1]
        require(len(x) >= 1 and len(weight) == 2 and x[-1] == weight[1], f"input {x} does not fit weight {weight}")
        out = (*x[:-1], weight[0])
        check_epilogue(self.epilogue, inputs, weight[0], out)
        return [out]


@dataclass(frozen=True)
class MatMul(Op):
    """a (..., M, K), b (..., K, N): NumPy's matmul of activations (or an activation and a constant), any rank >= 1."""

    def infer(self, inputs: list[Shape]) -> list[Shape]:
        arity(inputs, 2)
        a, b = inputs
        require(len(a) >= 1 and len(b) >= 1, "a scalar cannot be multiplied as a matrix")
        left = a if len(a) > 1 else (1, *a)
        right = b if len(b) > 1 else (*b, 1)
        require(left[-1] == right[-2], f"{a} x {b}: inner sizes differ")
        batch = broadcast(left[:-2], right[:-2])
        rows = left[-2:-1] if len(a) > 1 else ()
        columns = right[-1:] if len(b) > 1 else ()
        return [(*batch, *rows, *columns)]


# ---- normalisation --------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class BatchNorm(Op):
    """x (N,C,...), scale, bias, mean and variance (C): (x - mean) / sqrt(variance + epsilon) * scale + bias."""

    epsilon: float = 1e-5

    def infer(self, inputs: list[Shape]) -> list[Shape]:
        arity(inputs, 5)
        x = inputs[0]
        require(len(x) >= 2 and all(s == (x[1],) for s in inputs[1:]), f"parameters must be ({x[1:2]}) for input {x}")
        return [x]


@dataclass(frozen=True)
class LayerNorm(Op):
    """x, scale, bias [bias]: over the axes from `axis` to the last; scale and bias have the shape x.shape[axis:]."""

    axis: int
    epsilon: float = 1e-5
    bias: bool = True

    def infer(self, inputs: list[Shape]) -> list[Shape]:
        arity(inputs, 2 + self.bias)
        x = inputs[0]
        require(0 <= self.axis < len(x), f"axis {self.axis} of input {x}")
        require(
            all(s == x[self.axis :] for s in inputs[1:]), f"scale and bias must be {x[self.axis :]}, got {inputs[1:]}"
        )
        return [x]


@dataclass(frozen=True)
class GroupNorm(Op):
    """x (N,C,...), scale (C), bias (C): normalised over each of `groups` groups of channels and all of space.

    InstanceNormalization is `groups == C`.
    """

    groups: int
    epsilon: float = 1e-5

    def infer(self, inputs: list[Shape]) -> list[Shape]:
        arity(inputs, 3)
        x = inputs[0]
        require(len(x) >= 2 and self.groups > 0 and x[1] % self.groups == 0, f"{self.groups} groups for input {x}")
        require(all(s == (x[1],) for s in inputs[1:]), f"scale and bias must be ({x[1]},)")
        return [x]


@dataclass(frozen=True)
class LocalResponseNorm(Op):
    """x (N,C,...): x / (bias + alpha / size * sum of squares over `size` neighbouring channels) ** beta.

    The window of channel c is [c - floor((size-1)/2), c + ceil((size-1)/2)], as in ONNX's LRN.
    """

    size: int
    alpha: float = 1e-4
    beta: float = 0.75
    bias: float = 1.0

    def infer(self, inputs: list[Shape]) -> list[Shape]:
        arity(inputs, 1)
        require(len(inputs[0]) >= 2 and self.size > 0, f"LRN of size {self.size} on {inputs[0]}")
        return [inputs[0]]


@dataclass(frozen=True)
class Softmax(Op):
    """x: exp(x - max) / sum over `axis`; its logarithm with `log`."""

    axis: int
    log: bool = False

    def infer(self, inputs: list[Shape]) -> list[Shape]:
        arity(inputs, 1)
        require(0 <= self.axis < len(inputs[0]), f"axis {self.axis} of input {inputs[0]}")
        return [inputs[0]]


# ---- element by element ---------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Unary(Op):
    """x: an activation, element by element."""

    function: Activation

    @property
    def name(self) -> str:
        return self.function.kind

    def infer(self, inputs: list[Shape]) -> list[Shape]:
        arity(inputs, 1)
        return [inputs[0]]


BINARY_KINDS = ("add", "sub", "mul", "div", "max", "min", "pow")


@dataclass(frozen=True)
class Binary(Op):
    """a, b: NumPy's broadcasting; then the activation `after`, if any."""

    kind: str
    after: Activation | None = None

    @property
    def name(self) -> str:
        return self.kind

    def infer(self, inputs: list[Shape]) -> list[Shape]:
        arity(inputs, 2)
        require(self.kind in BINARY_KINDS, f"kind {self.kind!r} is not one of {BINARY_KINDS}")
        return [broadcast(*inputs)]


@dataclass(frozen=True)
class PRelu(Op):
    """x, slope: x if x > 0 else slope * x. The slope broadcasts to x as in NumPy; one a channel is (C,1,1)."""

    def infer(self, inputs: list[Shape]) -> list[Shape]:
        arity(inputs, 2)
        require(broadcast(*inputs) == inputs[0], f"slope {inputs[1]} does not broadcast to {inputs[0]}")
        return [inputs[0]]


# ---- windows and reductions -----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Pool(Op):
    """x (N,C,H,W). `kind` is "max", "average", or "lp" (p = `norm`).

    With `ceil_mode` a last window that starts inside the input or its left padding counts (PyTorch's and ONNX's rule).
    An average divides by the elements inside the image, or, with `count_include_pad`, inside the padded image.
    """

    kind: str
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    pad: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    ceil_mode: bool = False
    count_include_pad: bool = False
    norm: int = 2

    def infer(self, inputs: list[Shape]) -> list[Shape]:
        arity(inputs, 1)
        x = inputs[0]
        require(len(x) == 4, f"input {x} must have rank 4")
        require(self.kind in ("max", "average", "lp"), f"kind {self.kind!r}")
        require(min(*self.kernel, *self.stride, *self.dilation) >= 1, "kernel, stride and dilation must be at least 1")
        require(min(self.pad) >= 0, f"pads {self.pad} must not be negative")
        size = []
        for i in (0, 1):
            reach = self.dilation[i] * (self.kernel[i] - 1) + 1
            is_inside = max(self.pad[i], self.pad[i + 2]) < reach
            require(is_inside, f"pads {self.pad} must be smaller than the window {self.kernel}")
            room = x[2 + i] + self.pad[i] + self.pad[i + 2] - reach
            count = (room + (self.stride[i] - 1 if self.ceil_mode else 0)) // self.stride[i] + 1
            if self.ceil_mode and (count - 1) * self.stride[i] >= x[2 + i] + self.pad[i]:
                count -= 1
            require(count > 0, f"the window {self.kernel} is larger than the padded input {x}")
            size.append(count)
        return [(x[0], x[1], size[0], size[1])]


@dataclass(frozen=True)
class AdaptivePool(Op):
    """x (N,C,H,W) -> (N,C,P,Q): window i of an axis is [floor(i H / P), ceil((i+1) H / P)); (1, 1) is global."""

    kind: str  # "max" or "average"
    size: tuple[int, int] = (1, 1)

    def infer(self, inputs: list[Shape]) -> list[Shape]:
        arity(inputs, 1)
        require(len(inputs[0]) == 4 and min(self.size) > 0, f"input {inputs[0]} to size {self.size}")
        require(self.kind in ("max", "average"), f"kind {self.kind!r}")
        require(min(inputs[0][2:]) > 0, f"there is nothing to pool in {inputs[0]}")
        return [(*inputs[0][:2], *self.size)]


@dataclass(frozen=True)
class Reduce(Op):
    """x: "mean", "sum", "max", "min" or "l2" over `axes`."""

    kind: str
    axes: tuple[int, ...]
    keepdims: bool = True

    @property
    def name(self) -> str:
        return f"reduce_{self.kind}"

    def infer(self, inputs: list[Shape]) -> list[Shape]:
        arity(inputs, 1)
        x = inputs[0]
        require(self.kind in ("mean", "sum", "max", "min", "l2"), f"kind {self.kind!r}")
        require(all(0 <= a < len(x) for a in self.axes), f"axes {self.axes} of input {x}")
        kept = [(1 if i in self.axes else d) for i, d in enumerate(x) if self.keepdims or i not in self.axes]
        return [tuple(kept)]


# ---- moving data ----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Concat(Op):
    """Any number of tensors that differ along `axis` only."""

    axis: int

    def infer(self, inputs: list[Shape]) -> list[Shape]:
        require(len(inputs) > 0, "nothing to concatenate")
        first = inputs[0]
        require(0 <= self.axis < len(first), f"axis {self.axis} of {first}")
        rest = [s[: self.axis] + s[self.axis + 1 :] for s in inputs]
        agree = all(len(s) == len(first) and r == rest[0] for s, r in zip(inputs, rest, strict=True))
        require(agree, f"shapes {inputs}")
        return [(*first[: self.axis], sum(s[self.axis] for s in inputs), *first[self.axis + 1 :])]


@dataclass(frozen=True)
class Slice(Op):
    """x: `start:stop:step` on each of `axes` (step not 0, may be negative; start and stop as Python resolves them)."""

    axes: tuple[int, ...]
    starts: tuple[int, ...]
    stops: tuple[int, ...]
    steps: tuple[int, ...]

    def ranges(self, x: Shape) -> list[range]:
        """For each axis of x the indices that are kept."""
        kept = [range(d) for d in x]
        for axis, start, stop, step in zip(self.axes, self.starts, self.stops, self.steps, strict=True):
            require(0 <= axis < len(x) and step != 0, f"axis {axis}, step {step} of input {x}")
            kept[axis] = range(x[axis])[slice(start, stop, step)]
        return kept

    def infer(self, inputs: list[Shape]) -> list[Shape]:
        arity(inputs, 1)
        return [tuple(len(r) for r in self.ranges(inputs[0]))]


@dataclass(frozen=True)
class Pad(Op):
    """x: `before[i]` and `after[i]` elements on axis i (negative crops). Modes "constant", "reflect", "edge"."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    mode: str = "constant"
    value: float = 0.0

    def infer(self, inputs: list[Shape]) -> list[Shape]:
        arity(inputs, 1)
        x = inputs[0]
        require(len(self.before) == len(self.after) == len(x), f"pads for {len(self.before)} axes, input {x}")
        require(self.mode in ("constant", "reflect", "edge"), f"mode {self.mode!r}")
        if self.mode == "reflect":
            is_inside = all(max(b, a) < max(d, 1) for b, a, d in zip(self.before, self.after, x, strict=True))
            require(is_inside, f"reflect {self.before} {self.after} on {x}")
        out = tuple(d + b + a for d, b, a in zip(x, self.before, self.after, strict=True))
        require(min(out, default=0) >= 0, f"cropping {x} to {out}")
        return [out]


@dataclass(frozen=True)
class Reshape(Op):
    """x -> `shape`, where 0 copies the input's axis of that position and one -1 takes what is left.

    Front ends write 0 where input and output have the same leading size, so that another batch reshapes as meant.
    """

    shape: tuple[int, ...]

    def infer(self, inputs: list[Shape]) -> list[Shape]:
        arity(inputs, 1)
        x = inputs[0]
        require(all(d != 0 or i < len(x) for i, d in enumerate(self.shape)), f"{x} to {self.shape}")
        out = [x[i] if d == 0 else d for i, d in enumerate(self.shape)]
        require(out.count(-1) <= 1 and all(d >= -1 for d in out), f"{x} to {self.shape}")
        if -1 in out:  # copied axes are on both sides and cancel: the rest is known even of an empty batch
            rest = math.prod(d for i, d in enumerate(x) if self.shape[i : i + 1] != (0,))
            known = math.prod(d for d in self.shape if d > 0)
            require(rest % known == 0, f"{x} has not a multiple of {known} elements")
            out[out.index(-1)] = rest // known
        require(math.prod(out) == math.prod(x), f"{x} has {math.prod(x)} elements, {tuple(out)} has {math.prod(out)}")
        return [tuple(out)]


@dataclass(frozen=True)
class Transpose(Op):
    """x: axis i of the output is axis `perm[i]` of the input."""

    perm: tuple[int, ...]

    def infer(self, inputs: list[Shape]) -> list[Shape]:
        arity(inputs, 1)
        require(sorted(self.perm) == list(range(len(inputs[0]))), f"permutation {self.perm} of input {inputs[0]}")
        return [tuple(inputs[0][i] for i in self.perm)]


@dataclass(frozen=True)
class Expand(Op):
    """x -> broadcast together with `shape` (NumPy's rule, both ways)."""

    shape: tuple[int, ...]

    def infer(self, inputs: list[Shape]) -> list[Shape]:
        arity(inputs, 1)
        return [broadcast(inputs[0], self.shape)]


COORDINATES = ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
ROUNDINGS = ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")


@dataclass(frozen=True)
class Resize(Op):
    """x (N,C,H,W) -> (N,C,P,Q). `mode` is "nearest", "linear" (bilinear) or "cubic".

    Exactly one of `size` (P, Q) and `scale` is given; a scale gives P = floor(H * scale). Coordinates and rounding are
    ONNX Resize's names; where `size` is given the scale of an axis is P / H.
    """

    mode: str
    size: tuple[int, int] | None = None
    scale: tuple[float, float] | None = None
    coordinates: str = "half_pixel"
    rounding: str = "round_prefer_floor"  # nearest only
    cubic_coefficient: float = -0.75

    def infer(self, inputs: list[Shape]) -> list[Shape]:
        arity(inputs, 1)
        x = inputs[0]
        is_one_given = (self.size is None) != (self.scale is None)
        require(len(x) == 4 and is_one_given, f"input {x}, size {self.size}, scale {self.scale}")
        require(self.mode in ("nearest", "linear", "cubic"), f"mode {self.mode!r}")
        require(self.coordinates in COORDINATES and self.rounding in ROUNDINGS, f"{self.coordinates}, {self.rounding}")
        if self.size is not None:
            size = self.size
        else:
            assert self.scale is not None
            size = (math.floor(x[2] * self.scale[0]), math.floor(x[3] * self.scale[1]))
        require(min(size) > 0 and min(x[2:]) > 0, f"resizing {x} to {size}")
        return [(*x[:2], *size)]

    def scales(self, x: Shape) -> tuple[float, float]:
        """The factor of each spatial axis that the coordinate formulas use."""
        if self.scale is not None:
            return self.scale
        assert self.size is not None
        return self.size[0] / x[2], self.size[1] / x[3]


# ---- helpers --------------------------------------------------------------------------------------------------------
def check_epilogue(epilogue: Epilogue, inputs: list[Shape], k: int, out: Shape) -> None:
    if epilogue.bias:
        require(inputs[2] == (k,), f"bias {inputs[2]} must be ({k},)")
    if epilogue.residual:
        require(inputs[-1] == out, f"residual {inputs[-1]} must have the output's shape {out}")


def with_epilogue(op: Conv | Linear, epilogue: Epilogue) -> Conv | Linear:
    return replace(op, epilogue=epilogue)
