"""Activations: names, parameters and the formulas they stand for."""

from __future__ import annotations

from dataclasses import dataclass

# kind -> names of its parameters, in order. The formulas are in `waterline.reference`.
ACTIVATIONS: dict[str, tuple[str, ...]] = {
    "relu": (),
    "leaky_relu": ("alpha",),
    "clip": ("low", "high"),
    "sigmoid": (),
    "hard_sigmoid": ("alpha", "beta"),  # max(0, min(1, alpha x + beta))
    "hard_swish": (),  # x max(0, min(1, x / 6 + 1 / 2))
    "silu": (),
    "gelu": (),  # x Phi(x), with erf
    "gelu_tanh": (),
    "tanh": (),
    "elu": ("alpha",),
    "selu": ("alpha", "gamma"),
    "softplus": (),
    "softsign": (),
    "mish": (),
    "exp": (),
    "log": (),
    "sqrt": (),
    "erf": (),
    "abs": (),
    "neg": (),
    "reciprocal": (),
    "floor": (),
    "ceil": (),
    "square": (),
}


@dataclass(frozen=True)
class Activation:
    """A function of one value, applied element by element.

    `params` are the values of the parameters that `ACTIVATIONS[kind]` names.
    """

    kind: str
    params: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        names = ACTIVATIONS.get(self.kind)
        if names is None:
            raise ValueError(f"unknown activation {self.kind!r}")
        if len(names) != len(self.params):
            raise ValueError(f"activation {self.kind!r} takes {names}, got {self.params}")

    def __str__(self) -> str:
        """Tells any two apart: Triton's cache on disk knows kernels by it."""
        return self.kind + ("" if not self.params else "(" + ",".join(map(_exact, self.params)) + ")")


def _exact(number: float) -> str:
    """Short where that reads back as the same number."""
    short = f"{number:g}"
    return short if float(short) == number else repr(float(number))
