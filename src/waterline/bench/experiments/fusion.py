"""Block fusion: residual blocks as one kernel against the same layers one after the other, after Lavin (2024)."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from functools import partial

from waterline.bench import records
from waterline.bench.command import check_threads, counts, positive, words
from waterline.bench.experiments import Listener
from waterline.bench.experiments.fusion_network import UNFUSED, VARIANTS, Measured, Subject, block_columns, in_turns
from waterline.bench.records import Record
from waterline.bench.timing import Protocol, Ratio
from waterline.machine import Machine
from waterline.models import default_image_size
from waterline.runtime.calibration import measure_peak

PROTOCOL = "experiment fusion"
NETWORKS = ("convfirst_tiny", "mobilenet_v2", "convnext_tiny", "efficientnet_b0")
BATCHES = (1, 16)
LEAST_ROUNDS = 10
LONG_S = 0.3  # an inference that takes longer warms itself up
_PEAK_S = 0.005


def configure(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--network", metavar="NAME", help=f"of the zoo, or several with commas (default: {','.join(NETWORKS)})"
    )
    text = ",".join(map(str, BATCHES))
    parser.add_argument("--batch", type=counts, default=list(BATCHES), metavar="N,..", help=f"default: {text}")
    parser.add_argument("--image-size", type=positive, metavar="N", help="height and width of the image")


def measure(arguments: argparse.Namespace, machine: Machine, listener: Listener) -> Iterator[list[Record]]:
    """The records of one network and batch after the other: of each number of threads one a variant."""
    threads = arguments.threads or sorted({1, machine.cores})
    for count in threads:
        check_threads(count, machine)
    networks = words(arguments.network) if arguments.network else list(NETWORKS)
    for name in networks:
        default_image_size(name)  # a mistake is said before the work, not after it
    protocol = Protocol(seconds=arguments.seconds, least_rounds=LEAST_ROUNDS, least_calls=1, longest_turn_s=LONG_S)
    for name in networks:
        for batch in arguments.batch:
            what = f"{name}, batch {batch}"
            listener.show(f"{what}: compiling")
            subject = Subject.prepare(name, batch, machine, arguments.image_size)
            peak = partial(measure_peak, machine, _PEAK_S)
            found = in_turns(subject, threads, protocol, peak, partial(_show, listener, what))
            labels = {"batch": batch, "image_size": arguments.image_size or default_image_size(name)}
            yield describe(subject, found, machine, labels)


def _show(listener: Listener, what: str, rounds: int, share: float) -> None:
    listener.show(f"{what}: {rounds} rounds, {100 * share:.0f} %")


def describe(subject: Subject, found: dict[int, Measured], machine: Machine, labels: Record) -> list[Record]:
    """The records of what `in_turns` measured. `speedup` is the time without fusion by the variant's, round by round.

    Raises:
        Error: results disagree.
    """
    common = records.environment(machine, {})
    disagreement = subject.disagreement(machine.cores)
    result = []
    for threads, measured in found.items():
        peak = statistics.median(measured.peaks)
        for variant in VARIANTS:
            timing, layers = measured.calls[variant], measured.runs[variant].timing()
            record = records.measurement(
                timing,
                flops=subject.flops,
                peak_flops_per_s=peak,
                protocol=PROTOCOL,
                model=subject.name,
                engine="waterline",
                variant=variant,
                dtype="float32",
                threads=threads,
                **labels,
            )
            record["speedup"] = vars(Ratio.between(measured.calls[UNFUSED], timing))
            record["layers_ms"] = layers.median_ns / 1e6
            record["layers_efficiency"] = subject.flops / (layers.median_ns * 1e-9) / peak
            record["arena_bytes"], record["scratch_bytes"] = subject.workspace_bytes(variant, threads)
            record["disagreement"] = disagreement[variant]
            columns = block_columns(subject, measured, variant)
            record["blocks"] = {name: [_short(value) for value in values] for name, values in columns.items()}
            result.append({**common, **record})
    return result


def _short(value: object) -> object:
    return records.rounded(value) if isinstance(value, float) else value
