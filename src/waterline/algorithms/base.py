"""What every algorithm says of itself; the planner and the runtime know no more than this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np

from waterline.codegen.cpu.kernel import Call
from waterline.machine import Machine
from waterline.spec import TensorView

Config = Any  # a frozen dataclass of numbers: the blocking an algorithm runs with


# Policies, from the most accurate: what each allows, all before it allow less.
ACCURACIES = ("strict", "default", "fast")


@dataclass(frozen=True)
class Refusal:
    """Why an algorithm does not serve a layer, with the numbers that decided."""

    reason: str


@dataclass(frozen=True)
class Views:
    """Where a layer's tensors lie. Logical shapes are (N, C, H, W); the channels are neighbours in memory."""

    x: TensorView
    y: TensorView
    residual: TensorView | None = None


@dataclass(frozen=True)
class Cost:
    """Work of a layer with a config; `seconds` is what all cores of the machine need together, by its rates.

    All of them whatever the number of threads, so that the choice, and with it every result, does not depend on it.
    """

    seconds: float
    flops: float  # executed, padding of tiles included
    bytes: float  # moved beyond the second-level cache


@dataclass(frozen=True)
class Phase:
    """What one phase of a layer does, for `profile`: floating point operations and bytes read and written.

    `name` is that of the `Call.phase` or of the `kernel.Clock` which times it. Operations are those executed, padding
    of tiles included; both figures are of the whole batch.
    """

    name: str
    flops: float
    bytes: float


@dataclass(frozen=True)
class Implementation:
    """Everything the runtime needs to run a layer: calls in order, and the bytes of each workspace they name."""

    calls: tuple[Call, ...]
    workspaces: Mapping[str, int] = field(default_factory=dict)


SpecT = TypeVar("SpecT")  # ConvSpec, or BlockSpec of an algorithm that computes several layers
ViewsT = TypeVar("ViewsT")


class Algorithm(Generic[SpecT, ViewsT]):
    """A way to compute a convolution (or a block of layers). Instances have no state.

    `name` is the registry's key; `variants` are the names behind a colon, for algorithms that have several.
    """

    name: str = ""
    variants: tuple[str, ...] = ()
    is_last_resort: bool = False  # taken only where no other algorithm serves
    mixes_pixels: bool = False  # whether the rounding of a pixel reaches others, see `reference.conv_bound`

    def refuse(self, spec: SpecT, machine: Machine) -> Refusal | None:
        """None if the algorithm serves `spec` on `machine`, else the reason."""
        raise NotImplementedError

    def configs(self, spec: SpecT, machine: Machine) -> list[Config]:
        """The few blockings worth trying, the best by cost first."""
        raise NotImplementedError

    def cost(self, spec: SpecT, config: Config, machine: Machine) -> Cost:
        raise NotImplementedError

    def variant(self, config: Config) -> str:
        """Which of `variants` a config belongs to; "" where there are none."""
        return ""

    def accuracy(self, config: Config) -> str:
        """The policy that a config needs at least: "strict" where it is no less accurate than direct summation."""
        return "strict"

    def label(self, config: Config) -> str:
        """The name with the variant: what `options["algorithms"]` takes and `explain` prints."""
        variant = self.variant(config)
        return f"{self.name}:{variant}" if variant else self.name

    def tolerance(self, spec: SpecT, config: Config) -> float:
        """`a` in the bound |error| <= a * eps * depth * (|x| * |w|) of each output element."""
        return 1.0

    def phases(self, spec: SpecT, config: Config, machine: Machine) -> tuple[Phase, ...]:
        """The phases of a layer in their order; () for an algorithm that has one only.

        Where there are some, they cover the layer: every call of `implement` has one of their names, or a clock with
        some of them.
        """
        return ()

    def implement(self, spec: SpecT, config: Config, views: ViewsT, machine: Machine) -> Implementation:
        """The calls that compute `spec` on these views. Kernels do not depend on `spec.n`."""
        raise NotImplementedError

    def pack_weights(
        self, spec: SpecT, config: Config, weight: np.ndarray, bias: np.ndarray | None, machine: Machine
    ) -> dict[str, np.ndarray]:
        """Arrays made of the weights (K, C/g, R, S) and the bias, by the calls' names. Independent of n, h, w."""
        raise NotImplementedError

    def pack_tables(self, spec: SpecT, config: Config, views: ViewsT, machine: Machine) -> dict[str, np.ndarray]:
        """Arrays made of the geometry alone. Independent of n."""
        return {}


# A chunk of work takes one core this long: long against handing it out (0.1 us), short against a layer.
LEAST_CHUNK_SECONDS = 2e-6
MOST_CHUNK_SECONDS = 15e-6
# Chunks a layer is cut into where that leaves them long enough: cores differ in speed from moment to moment.
WANTED_CHUNKS = 8


def chunk_items(items: int, seconds: float) -> int:
    """How many of `items` work items, which take `seconds` together, are handed to a thread at a time."""
    if items <= 1 or seconds <= LEAST_CHUNK_SECONDS:
        return max(items, 1)
    wanted = min(max(seconds / WANTED_CHUNKS, LEAST_CHUNK_SECONDS), MOST_CHUNK_SECONDS)
    return max(1, min(items, round(items * wanted / seconds)))
