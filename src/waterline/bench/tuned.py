"""Networks whose algorithms are chosen by cost against the same with choices by measurement, interleaved.

`python -m waterline.bench.tuned resnet18 resnet50 --threads 1,2 --tune-seconds 15`

Layers that were measured on this machine before are not measured again (docs/tuning.md tells how they are remembered).
"""

from __future__ import annotations

import argparse
import itertools
import sys
from typing import Any

from waterline.api import environment
from waterline.bench import ours, records
from waterline.bench.command import (
    check_threads,
    counts,
    entry,
    keep,
    positive,
    print_columns,
    smallest_batch,
)
from waterline.bench.comparison import compare
from waterline.bench.engine import Task
from waterline.bench.records import Record
from waterline.bench.timing import Protocol
from waterline.bench.workload import Workload, flops
from waterline.machine import Machine
from waterline.planner import Plan

PROTOCOL = "tuning"
TUNED, BY_COST = "by measurement", "by cost"


def measure(
    workload: Workload, machine: Machine, threads: int, tune_seconds: float, protocol: Protocol
) -> list[Record]:
    """A record for each choice, by measurement first: the other's `ratio` is how many times as long it takes."""
    batch = smallest_batch(workload)
    inputs = workload.inputs(batch)
    task = Task(workload.model, inputs, threads)
    nets: dict[str, Any] = {
        TUNED: ours.compiled(task, {"tune": tune_seconds}),
        BY_COST: ours.compiled(task),
    }
    engines = {name: ours.engine_of(net, inputs) for name, net in nets.items()}
    measured, layers, changed = count(nets[TUNED].plan, nets[BY_COST].plan)
    found = compare(
        engines,
        machine,
        flops=flops(workload.graph(batch)),
        threads=threads,
        labels={"protocol": PROTOCOL, "model": workload.name, "dtype": "float32", "batch": batch},
        variant_labels={
            name: {"variant": name, "layers": layers, "measured": measured, "changed": changed} for name in engines
        },
        protocol=protocol,
    )
    common = records.environment(machine, {engine.name: engine.version for engine in engines.values()})
    return [{**common, **record} for record in found]


def count(tuned: Plan, by_cost: Plan) -> tuple[int, int, int]:
    """Convolutions that were measured, all of them, and those that are computed in another way."""
    others = {step.name: step.candidates[0] for step in by_cost.steps if step.candidates}
    pairs = [(step.candidates[0], others[step.name]) for step in tuned.steps if step.candidates]
    measured = sum(mine.measured_seconds is not None for mine, _ in pairs)
    changed = sum((mine.algorithm, mine.config) != (other.algorithm, other.config) for mine, other in pairs)
    return measured, len(pairs), changed


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="+", metavar="MODEL", help="names of the zoo, or paths of ONNX files")
    parser.add_argument("--threads", type=counts, metavar="N,..", help="default: the physical cores")
    parser.add_argument(
        "--tune-seconds", type=positive, default=15, metavar="S", help="to measure layers (default: 15)"
    )
    parser.add_argument("--seconds", type=positive, default=3, metavar="S", help="for each comparison (default: 3)")
    parser.add_argument("--image-size", type=positive, metavar="N", help="for networks of the zoo")


def execute(arguments: argparse.Namespace) -> int:
    machine = environment.machine()
    threads = arguments.threads or [machine.cores]
    for each in threads:
        check_threads(each, machine)
    rows = [("network", "threads", "measured", "changed", "by cost ms", "by measurement ms", "ratio", "p10-p90")]
    for name, each in itertools.product(dict.fromkeys(arguments.model), threads):
        workload = Workload.named(name, arguments.image_size)
        print(f"{workload.name}: {each} threads", file=sys.stderr, flush=True)
        found = measure(workload, machine, each, arguments.tune_seconds, Protocol(seconds=arguments.seconds))
        keep(arguments.append, found)
        tuned, by_cost = found
        ratio = by_cost["ratio"]
        layers = f"{tuned['measured']} of {tuned['layers']}"
        times = (f"{by_cost['median_ms']:.2f}", f"{tuned['median_ms']:.2f}", f"{ratio['median']:.2f}")
        spread = f"{ratio['p10']:.2f}-{ratio['p90']:.2f}"
        rows.append((workload.name, str(each), layers, str(tuned["changed"]), *times, spread))
    print_columns(rows)
    return 0


def main(argv: list[str] | None = None) -> int:
    return entry("tuned", "Choices of algorithms by measurement against those by cost.", configure, execute, argv)


if __name__ == "__main__":
    sys.exit(main())
