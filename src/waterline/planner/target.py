"""`Target`: what a plan is made for, and all that the planner must know of it.

A CPU is a `Machine`; `waterline.planner.gpu` has the target of a GPU. Algorithms of both have the same methods, which
differ in what they are told of the machine (`where`) only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from waterline.algorithms import BLOCK_REGISTRY, REGISTRY, Views, by_name
from waterline.algorithms.block_fusion.model import BlockViews
from waterline.graph.block import BlockSpec
from waterline.machine import Machine
from waterline.planner.blocks import Fusion, group_blocks, operator_price, priced_batch
from waterline.planner.lower import Layer, Layouts, Lowered
from waterline.planner.plan import Candidate, Step
from waterline.spec import ConvSpec

LayerSeconds = Callable[[int], float]


class Target(Protocol):
    """What the planner asks.

    Attributes:
        registry: the algorithms of single layers, the last resort last. block_names: those of several layers.
        where: what their methods are told of the machine, after the layer (and the config).
        layouts: what kernels want of the tensors.
    """

    @property
    def name(self) -> str: ...
    @property
    def registry(self) -> Sequence[Any]: ...
    @property
    def block_names(self) -> Sequence[str]: ...
    @property
    def where(self) -> tuple[Any, ...]: ...
    @property
    def layouts(self) -> Layouts: ...

    def for_weights(self, size_bytes: int) -> Target:
        """As a network finds it that has so many bytes of weights."""

    def decided(self, spec: ConvSpec) -> ConvSpec:
        """The layer that an algorithm is chosen for: results do not depend on what this leaves out."""

    def accuracy(self, algorithm: Any, config: Any) -> str:
        """The policy that an algorithm needs at least, see `Algorithm.accuracy`."""

    def compared(self, spec: ConvSpec) -> ConvSpec:
        """The layer whose price is compared with that of blocks."""

    def operator_seconds(self, layer: Layer) -> float: ...

    def group(
        self,
        lowered: Lowered,
        layer_seconds: LayerSeconds,
        *,
        eagerly: bool,
        only: Collection[tuple[str, ...]] | None,
    ) -> tuple[Lowered, dict[int, Fusion]]:
        """Blocks in the place of layers, as `waterline.planner.blocks.group_blocks`."""

    def workspaces(self, step: Step) -> dict[str, int]:
        """Bytes of memory that a step needs beside its tensors, by name."""

    def operator(self, step: Step) -> tuple[Candidate, ...]:
        """What computes a step that is no convolution, where there is more than one way."""

    def tolerance(self, step: Step) -> float:
        """Of a convolution: how much larger the error of an output may be than direct summation's."""

    def mixes_pixels(self, step: Step) -> bool:
        """Of a convolution: see `Algorithm.mixes_pixels`."""


@dataclass(frozen=True)
class CpuTarget:
    """A machine with its cores."""

    machine: Machine
    registry = REGISTRY
    block_names = tuple(each.name for each in BLOCK_REGISTRY)
    layouts = Layouts()

    @property
    def name(self) -> str:
        return self.machine.name

    @property
    def where(self) -> tuple[Machine]:
        return (self.machine,)

    def for_weights(self, size_bytes: int) -> CpuTarget:
        return replace(self, machine=self.machine.for_weights(size_bytes))

    def decided(self, spec: ConvSpec) -> ConvSpec:
        return spec.with_batch(1)

    def accuracy(self, algorithm: Any, config: Any) -> str:
        return str(algorithm.accuracy(config))

    def compared(self, spec: ConvSpec) -> ConvSpec:
        return spec.with_batch(priced_batch(spec.n))

    def operator_seconds(self, layer: Layer) -> float:
        return operator_price(layer, self.machine)

    def group(
        self,
        lowered: Lowered,
        layer_seconds: LayerSeconds,
        *,
        eagerly: bool,
        only: Collection[tuple[str, ...]] | None,
    ) -> tuple[Lowered, dict[int, Fusion]]:
        return group_blocks(lowered, self.machine, layer_seconds, eagerly=eagerly, only=only)

    def workspaces(self, step: Step) -> dict[str, int]:
        if step.spec is None:
            return {}
        made = by_name(step.algorithm).implement(step.spec, step.config, views_of(step), self.machine)
        return dict(made.workspaces)

    def operator(self, step: Step) -> tuple[Candidate, ...]:
        return ()

    def tolerance(self, step: Step) -> float:
        assert step.spec is not None
        return by_name(step.algorithm).tolerance(step.spec, step.config)

    def mixes_pixels(self, step: Step) -> bool:
        return by_name(step.algorithm).mixes_pixels


def target_of(machine: Machine | Target) -> Target:
    return CpuTarget(machine) if isinstance(machine, Machine) else machine


def views_of(step: Step) -> Views | BlockViews:
    """The tensors of a step as its algorithm sees them."""
    assert step.spec is not None
    if isinstance(step.spec, BlockSpec):
        return BlockViews(tuple(storage.view for storage in step.inputs), step.outputs[0].view)
    residual = step.inputs[-1].view if step.spec.epilogue.residual else None
    return Views(step.inputs[0].view, step.outputs[0].view, residual)


__all__ = ["CpuTarget", "Target", "target_of", "views_of"]
