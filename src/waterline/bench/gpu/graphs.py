"""Networks and blocks: whole plans of ours beside the same graph in PyTorch, eager and compiled, each in a CUDA graph.

What is checked: the error against PyTorch in float32 (float64 where the precision is float32), in the root mean square,
as a share of four times PyTorch's own error in the same precision.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import Any

import torch

from waterline.api.compiling import read_source
from waterline.bench.gpu.cases import INDUCTOR, OURS, TORCH, Call, Case, Variant, only_launches, void
from waterline.bench.gpu.convolutions import drawn, ends, exact_convolutions
from waterline.bench.gpu.inductor import LIMIT_S, NEEDED_S, compiled
from waterline.bench.gpu.place import Place
from waterline.bench.peers.torch_graph import GraphModule
from waterline.bench.records import Record
from waterline.bench.workload import flops
from waterline.codegen.gpu.kernel import GpuCall
from waterline.errors import Refused
from waterline.frontends import onnx
from waterline.graph import Graph
from waterline.machine.gpu import PRECISION_BYTES
from waterline.planner import Candidate, Plan, PlanOptions, plan
from waterline.planner.blocks import MOST_LAYERS
from waterline.planner.gpu import GpuTarget
from waterline.runtime.gpu.program import GpuProgram

ALLOWED = 4.0  # times PyTorch's own error
LEAST = 1e-6  # of the result's size: a network whose every operation is exact has no error
INPUT = "input"

Way = Callable[[Graph], PlanOptions]


class GraphCase(Case):
    """A model of one image and one result.

    Args:
        build: makes the ONNX model, once. shape: of an image.
        ways: name of the plan -> its options.
        inductor: the mode that Inductor is asked for, "" for none. kind: "network" or "block": how long it may take.
        is_again: the case has been measured without Inductor, and without time for it is not worth another turn.
    """

    def __init__(
        self,
        protocol: str,
        name: str,
        build: Callable[[], Any],
        shape: tuple[int, int, int],
        batch: int,
        precision: str,
        place: Place,
        ways: dict[str, Way],
        inductor: str = "",
        kind: str = "network",
        *,
        is_again: bool = False,
    ) -> None:
        self.protocol, self.name, self.batch, self.precision = protocol, name, batch, precision
        self.place, self._build, self._ways, self._inductor = place, build, ways, inductor
        self._inductor_s = NEEDED_S[inductor][kind] if inductor else 0.0
        self.needed_s = self._inductor_s if is_again else 0.0
        self.shape = (batch, *shape)
        self._programs: dict[str, GpuProgram] = {}

    @property
    def key(self) -> str:
        return super().key + (f", {self._inductor}" if self._inductor else "")

    # ---- the graph ----------------------------------------------------------------------------------------------
    @cached_property
    def model(self) -> Any:
        return self._build()

    def graph(self, batch: int) -> Graph:
        """As the model says it."""
        return self._read.with_shapes({INPUT: (batch, *self.shape[1:])})

    @cached_property
    def _read(self) -> Graph:
        return onnx.load(self.model, {INPUT: self.shape})

    @property
    def counted(self) -> tuple[int, float]:
        """With the weights."""
        return self._counted

    @cached_property
    def _counted(self) -> tuple[int, float]:
        graph = self.graph(self.batch)
        edges = sum(_elems(graph.shapes[name]) for name in (*graph.inputs, *graph.outputs))
        elems = edges + sum(value.size for value in graph.constants.values())
        return flops(graph), float(elems * PRECISION_BYTES[self.precision])

    # ---- plans --------------------------------------------------------------------------------------------------
    def program(self, way: str) -> GpuProgram:
        if way not in self._programs:
            engine = self.place.engine(self.precision)
            graph = read_source(self.model, self.x).graph
            graph.dtype = self.precision
            made = plan(graph, engine.target, self._ways[way](graph))
            if way == FUSED and not is_fused(made):
                raise Refused(f"{self.name}: {why_not(made)}")
            self._programs[way] = engine.program(made, engine.weights(graph, releases=False))
        return self._programs[way]

    def launches(self) -> Iterator[tuple[GpuCall, str]]:
        for way in self._ways:
            try:
                program = self.program(way)
            except Refused:
                continue  # which the variant says
            yield from only_launches((each.call for each in program.calls), self.precision)

    # ---- tensors ------------------------------------------------------------------------------------------------
    @cached_property
    def x(self) -> torch.Tensor:
        """(n, c, h, w), channels-last."""
        n, c, h, w = self.shape
        return drawn(self.place, self.precision, n, h, w, c).permute(0, 3, 1, 2)

    @cached_property
    def truth(self) -> tuple[torch.Tensor, float]:
        """Of images at both ends, and PyTorch's own error in the root mean square."""
        x = ends(self.x)
        wide = torch.float64 if self.precision in ("f32", "tf32") else torch.float32
        with exact_convolutions():
            (expected,) = self._module(x.shape[0], wide)(x.to(wide))
        (own,) = self._module(x.shape[0], x.dtype)(x)
        return expected, rms(own - expected)

    def _module(self, batch: int, dtype: torch.dtype) -> torch.nn.Module:
        return GraphModule(self.graph(batch)).eval().to(self.place.torch_device, dtype)

    def release(self) -> None:
        self._programs.clear()
        for name in ("x", "truth", "model", "_read"):
            self.__dict__.pop(name, None)

    # ---- variants -----------------------------------------------------------------------------------------------
    def variants(self) -> Iterator[Variant]:
        for way in self._ways:
            check, details = partial(self._disagreement, way), partial(self._details, way)
            yield Variant(OURS, way, partial(self._ours, way), check=check, details=details, limit_s=180.0)
        if self.place.can_time:
            yield Variant(TORCH, "channels_last", self._eager)
        if self.place.can_time and self._inductor:
            needed_s = self._inductor_s
            yield Variant(INDUCTOR, self._inductor, self._compiled, limit_s=LIMIT_S, needed_s=needed_s)

    def _ours(self, way: str) -> Call:
        program = self.program(way)
        void(program.run([self.x]))
        return program.launch

    def _eager(self) -> Call:
        module, x = self._module(self.batch, self.x.dtype), self.x

        def call() -> None:
            with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, benchmark=True):
                void(module(x))

        return call

    def _compiled(self) -> Call:
        return compiled(self._module(self.batch, self.x.dtype), [self.x], self._inductor)

    def _disagreement(self, way: str) -> float:
        (result,) = self.program(way).run([self.x])
        expected, own = self.truth
        error = rms(ends(result) - expected)
        share = error / (ALLOWED * own + LEAST * rms(expected))
        return share if share == share else float("inf")

    def _details(self, way: str) -> Record:
        """How many steps the plan has, and which kernels compute them."""
        kinds = Counter(step.kind for step in self.program(way).plan.steps)
        return {"steps": kinds.total(), "kernels": dict(kinds)}


# ---- plans ------------------------------------------------------------------------------------------------------
CHOSEN, FUSED, SINGLE = "plan", "fused", "layer by layer"


def as_chosen(graph: Graph) -> PlanOptions:
    return PlanOptions()


def fused(graph: Graph, place: Place, precision: str) -> PlanOptions:
    """All layers in one kernel, whatever it costs."""
    return PlanOptions(blocks=(_layers(graph, place, precision),))


def fused_wherever(graph: Graph, place: Place, precision: str) -> PlanOptions:
    """Every block that a kernel computes, whatever it costs."""
    names = _layers(graph, place, precision)
    lengths = range(2, MOST_LAYERS + 1)
    return PlanOptions(blocks=tuple(names[i : i + n] for n in lengths for i in range(len(names) - n + 1)))


def _layers(graph: Graph, place: Place, precision: str) -> tuple[str, ...]:
    """Names of its layers in order."""
    made = plan(graph, GpuTarget(place.gpu, precision), single(graph))
    return tuple(step.name for step in made.steps)


def single(graph: Graph) -> PlanOptions:
    return PlanOptions(block_fusion=False)


def is_fused(made: Plan) -> bool:
    return any(step.parts for step in made.steps)


def why_not(made: Plan) -> str:
    """What the planner says of a block that it has left in layers."""
    reasons = {each.refusal for step in made.steps for each in step.candidates if each.refusal and _is_block(each)}
    return "; ".join(sorted(reasons)) or "no kernel computes it at once"


def _is_block(candidate: Candidate) -> bool:
    return candidate.algorithm.partition(":")[0] in GpuTarget.block_names


def rms(values: torch.Tensor) -> float:
    return float(values.double().square().mean().sqrt())


def _elems(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


__all__ = ["CHOSEN", "FUSED", "SINGLE", "GraphCase", "Way", "as_chosen", "fused", "fused_wherever", "single"]
