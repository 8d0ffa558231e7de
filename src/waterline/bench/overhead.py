"""The overhead of a call: a network of twenty layers that compute next to nothing, interleaved with the peers.

`python -m waterline.bench.overhead --threads 1,2 --vs onnxruntime`

Each layer is a 1x1 convolution of 8 channels on one pixel: 128 operations. What remains of the time is what a call
costs in Python, what waking the threads costs, and twenty times what a step costs.
"""

from __future__ import annotations

import argparse
import sys

from waterline.api import environment
from waterline.bench import ours, peers, records
from waterline.bench.command import check_threads, counts, entry, keep, positive, print_columns, words
from waterline.bench.comparison import compare
from waterline.bench.engine import Task
from waterline.bench.records import Record
from waterline.bench.timing import Protocol
from waterline.bench.workload import Workload, flops
from waterline.machine import Machine
from waterline.models.network import Network, Tensor

LAYERS, CHANNELS = 20, 8


def workload() -> Workload:
    """The network: input `input` (N, 8, 1, 1), output `output` of the same shape."""
    network = Network("overhead", image_size=1)
    network.input = x = Tensor("input", (CHANNELS, 1, 1))
    for layer in range(LAYERS):
        x = network.conv(x, f"conv{layer}", CHANNELS, 1)
    return Workload("overhead", network.finish(x), {"input": (0, CHANNELS, 1, 1)})


def measure(machine: Machine, threads: int, vs: list[str], protocol: Protocol) -> list[Record]:
    """A record for each engine, ours first, in the form of `waterline bench`."""
    network = workload()
    inputs = network.inputs(batch=1)
    task = Task(network.model, inputs, threads)
    engines = {"waterline": ours.engine_of(ours.compiled(task), inputs)}
    engines |= {peer: peers.prepare(peer, task) for peer in vs}
    versions = {engine.name: engine.version for engine in engines.values()}
    measured = compare(
        engines,
        machine,
        flops=flops(network.graph(1)),
        threads=threads,
        labels={"protocol": "overhead", "model": network.name, "dtype": task.dtype, "batch": 1, "layers": LAYERS},
        protocol=protocol,
    )
    common = records.environment(machine, versions)
    return [{**common, **record} for record in measured]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=counts, metavar="N,..", help="default: the physical cores")
    parser.add_argument("--vs", type=words, default=[], metavar="PEER,..", help=f"of {', '.join(peers.PEERS)}")
    parser.add_argument("--seconds", type=positive, default=2, metavar="S", help="for each number of threads")


def execute(arguments: argparse.Namespace) -> int:
    vs = [peers.check_name(name) for name in arguments.vs]
    machine = environment.machine()
    threads = arguments.threads or [machine.cores]
    for count in threads:
        check_threads(count, machine)
    rows = [("engine", "threads", "us a call", "p10", "p90", "ratio")]
    for count in threads:
        found = measure(machine, count, vs, Protocol(seconds=arguments.seconds))
        keep(arguments.append, found)
        for record in found:
            times = (f"{1e3 * record[name]:.1f}" for name in ("median_ms", "p10_ms", "p90_ms"))
            rows.append((record["engine"], str(count), *times, f"{record['ratio']['median']:.2f}"))
    print_columns(rows)
    return 0


def main(argv: list[str] | None = None) -> int:
    return entry("overhead", f"The time of a call of {LAYERS} layers of next to no work.", configure, execute, argv)


if __name__ == "__main__":
    sys.exit(main())
