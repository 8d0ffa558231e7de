"""One network of the experiment: compiled, called and profiled, and what a record says of it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from waterline.analysis import Analysis, of_report
from waterline.bench import ours, records
from waterline.bench.engine import Engine, Task
from waterline.bench.experiments.efficiency_paper import published
from waterline.bench.records import Record
from waterline.bench.workload import Workload, flops
from waterline.graph import Graph, ops
from waterline.machine import Machine, Rates
from waterline.runtime.profile import Report

# Of `LayerAnalysis`, in a record's "layers": a column each.
LAYER_FIELDS = ("name", "shape", "algorithm", "block", "flops", "executed_flops", "bytes", "bound_ns", "time_ns")
BLOCK_FIELDS = ("name", "bytes", "fused_bytes", "bound_ns", "fused_bound_ns")
_PROFILED = 1e-9  # seconds: one inference is the least
_RUNNING = slice(3, 5)  # inputs of a batch normalisation that training does not learn: mean and variance


@dataclass
class Subject:
    """A network that is ready to be measured.

    Attributes:
        engine: whole calls, with arrays in NCHW. reports: of the profiled inferences, in order.
        flops: of the direct algorithm, for the batch. parameters: that training learns.
    """

    name: str
    net: Any
    inputs: Sequence[np.ndarray]
    engine: Engine
    flops: int
    parameters: int
    reports: list[Report] = field(default_factory=list)

    @classmethod
    def prepare(
        cls,
        name: str,
        batch: int,
        threads: int,
        dtype: str = "float32",
        device: str = "cpu",
        image_size: int | None = None,
    ) -> Subject:
        """Compile a network of the zoo.

        Raises:
            InvalidArgument: there is none of this name, or its image is too small.
        """
        workload = Workload.named(name, image_size)
        inputs = workload.inputs(batch)
        net = ours.compiled(Task(workload.model, inputs, threads, dtype, device))
        graph = workload.graph(batch)
        engine = ours.engine_of(net, inputs)
        return cls(name, net, list(inputs.values()), engine, flops(graph), parameters(graph))

    def profile(self) -> None:
        """One inference (after one to warm up) with the layers' times."""
        self.reports.append(self.net.profile(*self.inputs, seconds=_PROFILED))

    def analyse(self, machine: Rates) -> Analysis:
        """Of the medians of the profiled inferences, on a machine with the peak that was measured beside them."""
        return of_report(self.net.plan_for(*self.inputs), machine, median_report(self.reports))


def parameters(graph: Graph) -> int:
    """Numbers that training learns: weights, biases, scales; not the recorded statistics of batch normalisations."""
    learned = set()
    for node in graph.nodes:
        running = node.inputs[_RUNNING] if isinstance(node.op, ops.BatchNorm) else ()
        learned |= {name for name in node.inputs if name in graph.constants and name not in running}
    return sum(graph.constants[name].size for name in learned)


def median_report(reports: Sequence[Report]) -> Report:
    """Each layer's median over reports of one network, and the whole's."""
    rows = tuple(
        replace(same[0], time_ns=statistics.median(row.time_ns for row in same), phases=())
        for same in zip(*(report.rows for report in reports), strict=True)
    )
    time_ns = statistics.median(report.time_ns for report in reports)
    return replace(reports[0], rows=rows, time_ns=time_ns, runs=len(reports), phase_sums=())


def with_peak(machine: Rates, threads: int, peak_flops_per_s: float) -> Rates:
    """The same machine, whose peak of so many threads is the one given; a GPU has its calibration's."""
    if not isinstance(machine, Machine):
        return machine
    return replace(machine, peak_flops_per_s=peak_flops_per_s / threads, peak_all_flops_per_s=None)


def describe(subject: Subject, analysis: Analysis) -> Record:
    """What an analysis adds to the record of a network. Times in milliseconds but in columns, which are in ns."""
    causes = analysis.causes
    profiled = [report.time_ns for report in subject.reports]
    layers: dict[str, list[Any]] = {
        name: [_short(getattr(layer, name)) for layer in analysis.layers] for name in LAYER_FIELDS
    }
    layers["arithmetic_ns"] = [_short(layer.causes.arithmetic_ns) for layer in analysis.layers]
    layers["memory_ns"] = [_short(layer.causes.memory_ns) for layer in analysis.layers]
    layers["predicted_ns"] = [_short(layer.predicted_ns) for layer in analysis.layers]
    return {
        "parameters": subject.parameters,
        "executed_flops": analysis.executed_flops,
        "profiled_ms": analysis.time_ns / 1e6,
        "profiled_samples": [records.rounded(time_ns / 1e6) for time_ns in profiled],
        "profiled_efficiency": analysis.computational_efficiency,
        "effective_efficiency": analysis.effective_efficiency,
        "ideal_ms": analysis.ideal_ns / 1e6,
        "bound_ms": analysis.bound_ns / 1e6,
        "fused_bound_ms": analysis.fused_bound_ns / 1e6,
        "waterline": analysis.waterline,
        "fused_waterline": analysis.fused_waterline,
        "causes_ms": {
            "arithmetic": causes.arithmetic_ns / 1e6,
            "memory": causes.memory_ns / 1e6,
            "overhead": causes.overhead_ns / 1e6,
        },
        "bytes_per_s": analysis.bytes_per_s,
        "published": published(subject.name),
        "layers": layers,
        "blocks": {name: [_short(getattr(block, name)) for block in analysis.blocks] for name in BLOCK_FIELDS},
    }


def _short(value: Any) -> Any:
    return records.rounded(value) if isinstance(value, float) else value
