"""`Plan`: what will be run, as data. It is made without running anything and can be written down as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from waterline.errors import InvalidArgument
from waterline.graph.block import BlockLayer, BlockSpec
from waterline.graph.ops import Op
from waterline.planner import codec
from waterline.planner.storage import Storage
from waterline.spec import ConvSpec

PLAN_VERSION = 4


@dataclass(frozen=True)
class Buffer:
    """Memory that tensors lie in.

    `kind` is "input" and "output" (the caller's, number `index`), "constant" (of the graph, named `constant`) or
    "arena" (at `offset_bytes`).
    """

    kind: str
    elems: int
    index: int = 0
    offset_bytes: int = 0
    constant: str = ""


@dataclass(frozen=True)
class Candidate:
    """An algorithm that was considered for a layer.

    Attributes:
        algorithm: name:variant.
        seconds: predicted for one image on all cores; None where it was refused.
        refusal: the reason.
        measured_seconds: of one run of the layer, where it was tuned.
        config: the blocking that the figures belong to; None where an algorithm was refused as a whole.
    """

    algorithm: str
    seconds: float | None
    refusal: str = ""
    measured_seconds: float | None = None
    config: Any = None


@dataclass(frozen=True)
class Step:
    """One layer.

    Attributes:
        name: the node's name. op: what is computed. inputs, outputs: where its tensors lie.
        algorithm: the registry's name, or "" for an operator that has one way only.
        spec, config: of a convolution or of a block of layers (None for the others).
        weight, bias: names of the graph's constants that a convolution packs.
        candidates: every algorithm that was considered, the chosen one first.
        workspace_bytes: name -> offset in the arena.
        parts: of a block, its layers as they would be by themselves, with the algorithm and the config that each has
            inside. What lies between them has no buffer.
        dtype: of its tensors but for constants: "f32", or what a GPU computes in.
    """

    name: str
    op: Op
    inputs: tuple[Storage, ...]
    outputs: tuple[Storage, ...]
    algorithm: str = ""
    spec: ConvSpec | BlockSpec | None = None
    config: Any = None
    weight: str = ""
    bias: str = ""
    candidates: tuple[Candidate, ...] = ()
    workspaces: tuple[tuple[str, int], ...] = ()
    parts: tuple[Step, ...] = ()
    dtype: str = "f32"

    @property
    def layers(self) -> tuple[Step, ...]:
        """The step itself, or the parts of a block."""
        return self.parts or (self,)

    @property
    def kind(self) -> str:
        """The algorithm with its variant, or the operator's name."""
        return self.candidates[0].algorithm if self.candidates else self.op.name


@dataclass(frozen=True)
class Plan:
    """A network laid out for a machine and an input shape.

    Attributes:
        inputs, outputs: name and shape of the network's tensors, in order.
        buffers: root name -> memory.
        arena_bytes: memory for everything between the input and the output.
    """

    network: str
    machine: str
    inputs: tuple[tuple[str, tuple[int, ...]], ...]
    outputs: tuple[tuple[str, tuple[int, ...]], ...]
    buffers: dict[str, Buffer]
    steps: tuple[Step, ...]
    arena_bytes: int
    version: int = field(default=PLAN_VERSION)

    @property
    def flops(self) -> int:
        """Operations of the direct algorithm in convolutions and fully connected layers."""
        return sum(step.spec.flops for step in self.steps if step.spec)

    def to_json(self) -> str:
        return json.dumps(codec.encode(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Reads what `to_json` wrote. Raises InvalidArgument where the text is something else."""
        try:
            plan = codec.decode(json.loads(text))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise InvalidArgument(f"this is not a plan: {error}", "pass the text that Plan.to_json() wrote") from error
        if not isinstance(plan, Plan) or plan.version != PLAN_VERSION:
            raise InvalidArgument(f"this is not a plan of version {PLAN_VERSION}", "make it again with this version")
        return plan


for _class in (Buffer, Candidate, Step, Plan, Storage, BlockLayer, BlockSpec):
    codec.register(_class)
