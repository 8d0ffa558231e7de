"""`Engine`: what a compiled network needs of the device that it runs on; `CpuEngine`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from waterline.analysis import Analysis, of_plan
from waterline.api import environment
from waterline.api.arrays import like, to_numpy
from waterline.api.options import cpu_algorithms
from waterline.graph import Graph
from waterline.machine import Machine, Rates
from waterline.planner import CpuTarget, Plan, Target, TuningTask
from waterline.runtime import profile, tuning
from waterline.runtime.measured_layers import MeasuredLayers
from waterline.runtime.program import Program
from waterline.runtime.tuning import OnProgress, Tuned
from waterline.runtime.weights import PackedWeights

Shapes = tuple[tuple[int, ...], ...]


class Engine(Protocol):
    """A device with what it computes in.

    Attributes:
        rates: for analyses. threads: that a run takes. programs_kept: input shapes that a network keeps ready; this
            bounds intermediate memory.
        dtype: of the tensors between layers.
    """

    @property
    def target(self) -> Target: ...
    @property
    def rates(self) -> Rates: ...
    @property
    def threads(self) -> int: ...
    @property
    def dtype(self) -> str: ...
    @property
    def programs_kept(self) -> int: ...

    def readable(self, model: Any, example_inputs: Any) -> tuple[Any, Any]:
        """A model and example inputs as front ends read them: float32 on the host."""

    def shapes(self, wanted: Shapes, own: Shapes, takes_images_alone: Callable[[], bool]) -> Shapes:
        """Those of the program that serves inputs of the `wanted` shapes, of a network compiled for its `own`."""

    def array(self, value: Any, name: str) -> Any:
        """The caller's tensor as the engine's. Raises InvalidArgument for what is none, or is elsewhere."""

    def result(self, array: Any, example: Any) -> Any:
        """An output in the caller's kind of array."""

    @property
    def algorithm_names(self) -> Sequence[str]:
        """What `options["algorithms"]` may name."""

    def measured_layers(self) -> MeasuredLayers:
        """What tuning has measured."""

    def tune(
        self,
        tasks: Sequence[TuningTask],
        wanted: Sequence[TuningTask],
        seconds: float,
        on_progress: OnProgress | None = None,
    ) -> Tuned:
        """Measure the `wanted` ones of a network's layers."""

    def weights(self, graph: Graph, *, releases: bool) -> Any: ...
    def program(self, plan: Plan, weights: Any) -> Any: ...
    def run(self, program: Any, arrays: Sequence[Any]) -> list[Any]: ...
    def measure(self, program: Any, arrays: Sequence[Any], seconds: float) -> profile.Report: ...
    def analyse(self, plan: Plan) -> Analysis:
        """Before anything has run."""


@dataclass(frozen=True)
class CpuEngine:
    """So many threads of this machine."""

    machine: Machine
    threads: int
    dtype = "f32"
    programs_kept = 8

    @property
    def target(self) -> CpuTarget:
        return CpuTarget(self.machine)

    @property
    def rates(self) -> Machine:
        return self.machine

    def readable(self, model: Any, example_inputs: Any) -> tuple[Any, Any]:
        return model, example_inputs

    def shapes(self, wanted: Shapes, own: Shapes, takes_images_alone: Callable[[], bool]) -> Shapes:
        return wanted

    def array(self, value: Any, name: str) -> np.ndarray:
        return to_numpy(value, name)

    def result(self, array: np.ndarray, example: Any) -> Any:
        return like(array, example)

    @property
    def algorithm_names(self) -> list[str]:
        return cpu_algorithms()

    def measured_layers(self) -> MeasuredLayers:
        return environment.measured_layers()

    def tune(
        self,
        tasks: Sequence[TuningTask],
        wanted: Sequence[TuningTask],
        seconds: float,
        on_progress: OnProgress | None = None,
    ) -> Tuned:
        cache = environment.object_cache()
        return tuning.tune(
            tasks,
            wanted,
            self.measured_layers(),
            self.machine,
            cache,
            threads=self.threads,
            seconds=seconds,
            on_progress=on_progress,
        )

    def weights(self, graph: Graph, *, releases: bool) -> PackedWeights:
        return PackedWeights(graph.constants, self.machine, releases=releases)

    def program(self, plan: Plan, weights: PackedWeights) -> Program:
        return Program(plan, weights, self.machine, environment.object_cache())

    def run(self, program: Program, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        return program.run(arrays, self.threads)

    def measure(self, program: Program, arrays: Sequence[np.ndarray], seconds: float) -> profile.Report:
        return profile.measure(program, arrays, self.threads, seconds)

    def analyse(self, plan: Plan) -> Analysis:
        return of_plan(plan, self.machine, min(self.threads, self.machine.cores))


__all__ = ["CpuEngine", "Engine", "Shapes"]
