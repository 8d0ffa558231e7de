"""What happens to a tile of sums before its only store, inside Triton kernels: bias, activation, residual, activation.

The formulas are those of `waterline.reference`; all in f32.
"""

from __future__ import annotations

import triton
import triton.language as tl

from waterline.spec import Epilogue

# Those that `activate` knows.
ACTIVATIONS = frozenset(
    {"relu", "leaky_relu", "clip", "sigmoid", "hard_sigmoid", "hard_swish", "silu", "gelu", "gelu_tanh", "tanh"}
)


def has_activations(epilogue: Epilogue) -> bool:
    """Whether all activations are among `ACTIVATIONS`."""
    return all(each is None or each.kind in ACTIVATIONS for each in (epilogue.before, epilogue.after))


@triton.jit
def activate(x, FUNCTION: tl.constexpr):
    """FUNCTION: an `Activation`, or None."""
    if FUNCTION is None:
        return x
    elif FUNCTION.kind == "relu":
        return tl.maximum(x, 0.0)
    elif FUNCTION.kind == "leaky_relu":
        return tl.where(x < 0.0, x * FUNCTION.params[0], x)
    elif FUNCTION.kind == "clip":
        return tl.minimum(tl.maximum(x, FUNCTION.params[0]), FUNCTION.params[1])
    elif FUNCTION.kind == "sigmoid":
        return tl.sigmoid(x)
    elif FUNCTION.kind == "hard_sigmoid":
        return tl.minimum(tl.maximum(x * FUNCTION.params[0] + FUNCTION.params[1], 0.0), 1.0)
    elif FUNCTION.kind == "hard_swish":
        return x * tl.minimum(tl.maximum(x * (1.0 / 6.0) + 0.5, 0.0), 1.0)
    elif FUNCTION.kind == "silu":
        return x * tl.sigmoid(x)
    elif FUNCTION.kind == "gelu":
        return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    elif FUNCTION.kind == "gelu_tanh":
        return x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    else:
        tl.static_assert(FUNCTION.kind == "tanh", "an activation that kernels do not know")
        return 2.0 * tl.sigmoid(2.0 * x) - 1.0


@triton.jit
def finish(sums, bias, residual, columns, is_column, places, is_place, EPILOGUE: tl.constexpr):
    """The epilogue of a tile of rows x columns in f32.

    columns, is_column: numbers of the tile's columns and which of them there are; places, is_place: offsets into the
    residual, for the whole tile. EPILOGUE: an `Epilogue`.
    """
    if EPILOGUE.bias:
        sums += tl.load(bias + columns, mask=is_column, other=0.0).to(tl.float32)[None, :]
    return finish_biased(sums, residual, places, is_place, EPILOGUE)


@triton.jit
def finish_biased(sums, residual, places, is_place, EPILOGUE: tl.constexpr):
    """What follows the bias."""
    # By names: the oldest Triton takes no attribute of a compile-time object for an argument.
    before: tl.constexpr = EPILOGUE.before
    after: tl.constexpr = EPILOGUE.after
    sums = activate(sums, before)
    if EPILOGUE.residual:
        sums += tl.load(residual + places, mask=is_place, other=0.0).to(tl.float32)
    return activate(sums, after)
