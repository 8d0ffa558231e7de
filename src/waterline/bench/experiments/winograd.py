"""Winograd's algorithm after Lavin and Gray (2015): operations, accuracy, and VGG-E by batch."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from waterline import models
from waterline.algorithms.winograd.counts import square_counts
from waterline.algorithms.winograd.transforms import filtering
from waterline.bench import records
from waterline.bench.command import check_threads, counts, positive
from waterline.bench.experiments import Listener, winograd_accuracy, winograd_speed
from waterline.bench.experiments.winograd_accuracy import SEEDS
from waterline.bench.experiments.winograd_paper import ACCURACY, NETWORK, OPERATIONS, SPEED
from waterline.bench.records import Record
from waterline.bench.timing import Protocol
from waterline.machine import Machine

OPERATIONS_PROTOCOL = "experiment winograd: operations"
LEAST_ROUNDS = 3  # of batch 64 each takes half a minute


def configure(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--batch", type=counts, default=list(SPEED), metavar="N,..", help="default: the paper's, 1 to 64 by powers of 2"
    )
    parser.add_argument(
        "--network", default=NETWORK, metavar="NAME", help=f"of the zoo, for speed (default: {NETWORK})"
    )
    parser.add_argument("--image-size", type=positive, metavar="N", help="height and width, for speed")
    parser.add_argument(
        "--seeds", type=positive, default=SEEDS, metavar="N", help=f"data, for accuracy (default: {SEEDS})"
    )
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--accuracy-only", action="store_true", help="errors against float64")
    part.add_argument("--speed-only", action="store_true", help="the convolutions of the network")


def measure(arguments: argparse.Namespace, machine: Machine, listener: Listener) -> Iterator[list[Record]]:
    """The records of one layer or one batch after the other."""
    threads = arguments.threads or [machine.cores]
    for count in threads:
        check_threads(count, machine)
    if not arguments.accuracy_only:
        models.convolutions(arguments.network, arguments.image_size)  # a mistake is said before the work, not after it
    if not arguments.speed_only:
        common = records.environment(machine, {})
        yield [{**common, **record} for record in operations()]
        for found in winograd_accuracy.measure(threads[-1], listener, ACCURACY, arguments.seeds):
            yield [{**common, **record} for record in found]
    if not arguments.accuracy_only:
        protocol = Protocol(seconds=arguments.seconds, least_rounds=LEAST_ROUNDS)
        for count in threads:
            yield from winograd_speed.measure(
                machine, arguments.network, arguments.batch, count, protocol, listener, arguments.image_size
            )


def operations() -> list[Record]:
    """A record for each algorithm of the paper: the instructions and flops of our transforms of one tile."""
    found = []
    for (m, r), published in OPERATIONS.items():
        minimal = filtering(m, r)
        ours = square_counts(minimal)
        found.append(
            {
                "protocol": OPERATIONS_PROTOCOL,
                "algorithm": f"F({m}x{m},{r}x{r})",
                "multiplications": minimal.n**2,
                "direct_multiplications": (m * r) ** 2,
                "instructions": [part.instructions for part in (ours.data, ours.filter, ours.inverse)],
                "flops": [part.flops for part in (ours.data, ours.filter, ours.inverse)],
                "published_instructions": list(published),
            }
        )
    return found
