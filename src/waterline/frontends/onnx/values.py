"""What a name of an ONNX graph stands for while it is imported: a known array, a tensor of the network, or nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from waterline.graph.ops import Shape


@dataclass(eq=False)
class Constant:
    """An array that is known now, of any element type. `name` is the initializer's, if it is one."""

    array: np.ndarray
    name: str = ""

    @property
    def shape(self) -> Shape:
        return self.array.shape


@dataclass(eq=False)
class Tensor:
    """Something computed at run time. The name may change until the graph is finished."""

    name: str
    shape: Shape
    dtype: str = "float32"
    is_input: bool = field(default=False, kw_only=True)


@dataclass(eq=False)
class Missing:
    """Nothing computes it. `reason` is told if something reads it; None where the refusal has been told already."""

    reason: str | None = None


Value = Constant | Tensor | Missing


class RefusalError(Exception):
    """A node that is valid and not supported; the importer collects these and reports them together.

    `reason` is empty if the operator as such is not known, and None if it was reported where it arose.
    """

    def __init__(self, reason: str | None = "") -> None:
        super().__init__(reason)
        self.reason = reason
