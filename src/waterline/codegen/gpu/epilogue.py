"""What happens to a tile of sums before its only store, inside Triton kernels: bias, activation, residual, activation.

The formulas are those of `waterline.reference`; all in f32.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from waterline.spec import Activation, Epilogue

# Those that `activate` knows.
ACTIVATIONS = frozenset(
    {"relu", "leaky_relu", "clip", "sigmoid", "hard_sigmoid", "hard_swish", "silu", "gelu", "gelu_tanh", "tanh"}
)
NO_ACTIVATION = "none"


def constants(epilogue: Epilogue) -> dict[str, Any]:
    """The compile-time arguments of `finish`."""

    def of(name: str, activation: Activation | None) -> dict[str, Any]:
        params = (*(activation.params if activation else ()), 0.0, 0.0)
        kind = activation.kind if activation else NO_ACTIVATION
        return {name: kind, f"{name}_A": float(params[0]), f"{name}_B": float(params[1])}

    return {
        "HAS_BIAS": epilogue.bias,
        "HAS_RESIDUAL": epilogue.residual,
        **of("BEFORE", epilogue.before),
        **of("AFTER", epilogue.after),
    }


def has_activations(epilogue: Epilogue) -> bool:
    """Whether all activations are among `ACTIVATIONS`."""
    return all(each is None or each.kind in ACTIVATIONS for each in (epilogue.before, epilogue.after))


@triton.jit
def activate(x, KIND: tl.constexpr, A: tl.constexpr, B: tl.constexpr):
    if KIND == "none":
        return x
    elif KIND == "relu":
        return tl.maximum(x, 0.0)
    elif KIND == "leaky_relu":
        return tl.where(x < 0.0, x * A, x)
    elif KIND == "clip":
        return tl.minimum(tl.maximum(x, A), B)
    elif KIND == "sigmoid":
        return tl.sigmoid(x)
    elif KIND == "hard_sigmoid":
        return tl.minimum(tl.maximum(x * A + B, 0.0), 1.0)
    elif KIND == "hard_swish":
        return x * tl.minimum(tl.maximum(x * (1.0 / 6.0) + 0.5, 0.0), 1.0)
    elif KIND == "silu":
        return x * tl.sigmoid(x)
    elif KIND == "gelu":
        return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    elif KIND == "gelu_tanh":
        return x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    else:
        tl.static_assert(KIND == "tanh", "an activation that kernels do not know")
        return 2.0 * tl.sigmoid(2.0 * x) - 1.0


@triton.jit
def finish(
    sums,
    bias,
    residual,
    columns,
    is_column,
    places,
    is_place,
    HAS_BIAS: tl.constexpr,
    BEFORE: tl.constexpr,
    BEFORE_A: tl.constexpr,
    BEFORE_B: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    AFTER: tl.constexpr,
    AFTER_A: tl.constexpr,
    AFTER_B: tl.constexpr,
):
    """The epilogue of a tile of rows x columns in f32.

    columns, is_column: numbers of the tile's columns and which of them there are; places, is_place: offsets into the
    residual, for the whole tile.
    """
    if HAS_BIAS:
        sums += tl.load(bias + columns, mask=is_column, other=0.0).to(tl.float32)[None, :]
    sums = activate(sums, BEFORE, BEFORE_A, BEFORE_B)
    if HAS_RESIDUAL:
        sums += tl.load(residual + places, mask=is_place, other=0.0).to(tl.float32)
    return activate(sums, AFTER, AFTER_A, AFTER_B)
