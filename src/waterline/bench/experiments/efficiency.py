"""Complexity, efficiency, latency and waterline of whole networks, after Lavin (2024)."""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Iterator

from waterline.api.compiling import make_engine
from waterline.bench import records
from waterline.bench.command import check_threads, counts, positive, words
from waterline.bench.comparison import peak_now
from waterline.bench.experiments import Listener
from waterline.bench.experiments.efficiency_network import Subject, describe, with_peak
from waterline.bench.records import Record
from waterline.bench.timing import Protocol, Ratio, interleave
from waterline.machine import Machine, Rates
from waterline.models import default_image_size

PROTOCOL = "experiment efficiency"
# The first is what the others' latencies are compared with.
NETWORKS = ("convnext_tiny", "convfirst_tiny", "efficientnet_b0", "mobilenet_v2", "resnet18", "resnet50")
CONVNEXT, CONVFIRST = NETWORKS[:2]
LEAST_ROUNDS = 5


def configure(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--network", metavar="NAME", help=f"of the zoo, or several with commas (default: {','.join(NETWORKS)})"
    )
    parser.add_argument("--batch", type=counts, default=[1], metavar="N,..", help="default: 1")
    parser.add_argument("--image-size", type=positive, metavar="N", help="height and width of the image")
    parser.add_argument("--device", default="cpu", metavar="D", help="cpu, or cuda, cuda:1, ... (default: cpu)")
    parser.add_argument("--dtype", default="float32", metavar="D", help="of the arithmetic (default: float32)")


def measure(arguments: argparse.Namespace, machine: Machine, listener: Listener) -> Iterator[list[Record]]:
    """The records of one batch and number of threads after the other, a network each."""
    rates: Rates = machine
    threads = arguments.threads or [machine.cores]
    if arguments.device != "cpu":
        rates = make_engine(arguments.device, arguments.dtype, None).rates
        threads = [1]
    for count in threads:
        check_threads(count, machine)
    networks = words(arguments.network) if arguments.network else list(NETWORKS)
    protocol = Protocol(seconds=arguments.seconds, least_rounds=LEAST_ROUNDS, least_calls=1)
    for batch, count in itertools.product(arguments.batch, threads):
        subjects = []
        for name in networks:
            listener.show(f"compiling {name}")
            engine = (count, arguments.dtype, arguments.device)
            subjects.append(Subject.prepare(name, batch, *engine, image_size=arguments.image_size))
        size = arguments.image_size
        found = together(subjects, rates, batch, count, protocol, listener)
        for record in found:
            record |= {"image_size": size or default_image_size(record["model"]), "dtype": arguments.dtype}
        yield found


def together(
    subjects: list[Subject], machine: Rates, batch: int, threads: int, protocol: Protocol, listener: Listener
) -> list[Record]:
    """Calls and profiled inferences of all networks take turns in rounds, beside the machine's peak."""
    peaks: list[float] = []
    calls = {subject.name: subject.engine.run for subject in subjects}
    profiles = {f"{subject.name}, profiled": subject.profile for subject in subjects}
    what = f"batch {batch}, {threads} thread{'s' if threads > 1 else ''}"
    timings = interleave(
        {**calls, **profiles},
        protocol,
        each_round=lambda: peaks.append(peak_now(machine, threads)),
        on_round=lambda rounds, share: listener.show(f"{what}: {rounds} rounds, {100 * share:.0f} %"),
    )
    peak = statistics.median(peaks)
    first = timings[subjects[0].name]
    common = records.environment(machine, {subjects[0].engine.name: subjects[0].engine.version})
    found = []
    for subject in subjects:
        record = records.measurement(
            timings[subject.name],
            flops=subject.flops,
            peak_flops_per_s=peak,
            protocol=PROTOCOL,
            model=subject.name,
            engine="waterline",
            batch=batch,
            threads=threads,
        )
        record["ratio"] = {"to": first.name, **vars(Ratio.between(timings[subject.name], first))}
        record |= describe(subject, subject.analyse(with_peak(machine, threads, peak)))
        found.append({**common, **record})
    return found
