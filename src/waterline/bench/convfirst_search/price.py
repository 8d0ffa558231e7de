"""What a network reaches on a machine: by the formula, and by the planner."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import waterline
from waterline.algorithms.blocking import ACTIVATION_CYCLES, clock_hz, weight_seconds
from waterline.bench.convfirst_search.space import IMAGE_SIZE, Work, complexity, works
from waterline.bench.timing import geometric_mean
from waterline.frontends import onnx
from waterline.graph.passes import simplify
from waterline.machine import Machine
from waterline.machine.description import ELEM_BYTES
from waterline.models import ConvFirstConfig, build, build_convfirst

BATCHES = (1, 16)
FLOAT_BYTES = ELEM_BYTES["f32"]


@dataclass(frozen=True)
class Figure:
    """A network on one core of a machine.

    Attributes:
        attainable: share of the peak by the formula, None for what is no ConvFirst. predicted: by the planner.
        latency_ms: predicted, of one batch.
    """

    machine: str
    batch: int
    attainable: float | None
    predicted: float
    latency_ms: float


@dataclass(frozen=True)
class Priced:
    """A network with its figures.

    Attributes:
        name: in the zoo, "" for one that is not there. config: None for one that is no ConvFirst.
        macs: multiply-adds of an image. parameters: learnable ones.
    """

    name: str
    config: ConvFirstConfig | None
    macs: int
    parameters: int
    figures: tuple[Figure, ...]

    def figure(self, machine: str, batch: int) -> Figure:
        return next(each for each in self.figures if (each.machine, each.batch) == (machine, batch))

    def mean_predicted(self, batch: int | None = None) -> float:
        """Geometric mean over machines, and over batches unless one is named."""
        return geometric_mean([each.predicted for each in self.figures if batch in (None, each.batch)])


def attainable(config: ConvFirstConfig, machine: Machine, batch: int) -> float:
    """The share of one core's peak that a network reaches if each of its blocks is one perfect kernel.

    A kernel takes max(arithmetic, memory). Memory: what enters and leaves it and its weights, once. Arithmetic: the
    multiply-adds at peak and then the vectors that go through SiLU, which is no multiply-add but takes as much time as
    `ACTIVATION_CYCLES` x (multiply-adds a cycle). With c channels a hidden vector costs 2 c multiply-adds, so a block
    of 64 channels spends a seventh of its time there, and one of 512 a fiftieth (two multiply-adds a cycle).
    """
    found = works(config)
    machine = machine.for_weights(FLOAT_BYTES * sum(work.parameters for work in found))
    seconds = sum(_seconds(work, machine, batch) for work in found)
    return 2 * batch * sum(work.macs for work in found) / (machine.peak() * seconds)


def _seconds(work: Work, machine: Machine, batch: int) -> float:
    activation_cycles = ACTIVATION_CYCLES * batch * work.silu_elems / machine.lanes()
    arithmetic = 2 * batch * work.macs / machine.peak() + activation_cycles / clock_hz(machine)
    moved = FLOAT_BYTES * batch * (work.in_elems + work.out_elems)
    moving = moved / machine.bytes_per_s(machine.level_of(moved))
    return max(arithmetic, moving + weight_seconds(FLOAT_BYTES * work.parameters, machine))


def price(config: ConvFirstConfig, machines: Sequence[Machine], name: str = "") -> Priced:
    """Plan a ConvFirst network for one core of every machine, and predict it."""
    macs, parameters = complexity(config)
    figures = _figures(build_convfirst(config, IMAGE_SIZE), machines, config)
    return Priced(name, config, macs, parameters, figures)


def price_of_zoo(name: str, machines: Sequence[Machine]) -> Priced:
    """The same of a network that is no ConvFirst. It has no running statistics."""
    model = build(name, IMAGE_SIZE)
    weights = [each for each in model.graph.initializer if not each.name.startswith("constant.")]
    figures = _figures(model, machines, None)
    macs = waterline.analyse(model, machine=machines[0]).flops // 2
    return Priced(name, None, macs, sum(math.prod(each.dims) for each in weights), figures)


def _figures(model: object, machines: Sequence[Machine], config: ConvFirstConfig | None) -> tuple[Figure, ...]:
    figures = []
    for batch in BATCHES:
        graph = simplify(onnx.load(model, {"input": (batch, 3, IMAGE_SIZE, IMAGE_SIZE)}))  # once for all machines
        for machine in machines:
            found = waterline.analyse(graph, machine=machine, num_threads=1)
            limit = None if config is None else attainable(config, machine, batch)
            figures.append(Figure(machine.name, batch, limit, found.computational_efficiency, found.time_ns / 1e6))
    return tuple(figures)
