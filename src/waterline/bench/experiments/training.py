"""ConvFirst and ConvNeXt on equal terms: trained on the same small data, and timed in the same engines.

Two parts. *Accuracy*: networks of equal depth and number of parameters, one recipe, several seeds. *Latency*: these
two, and the families' tiny networks at 224x224, in Waterline and in other engines.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from waterline.bench import records
from waterline.bench.command import check_threads, counts, positive, words
from waterline.bench.experiments import Listener, training_runs, training_speed
from waterline.bench.experiments.training_networks import PAIRS, check_pairs, contestants
from waterline.bench.experiments.training_runs import EPOCHS, LEARNING_RATES, SEEDS
from waterline.bench.records import Record
from waterline.bench.timing import Protocol
from waterline.machine import Machine

RUNS = "runs/experiment-training"


def configure(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--seeds", type=positive, default=SEEDS, metavar="N", help=f"runs (default: {SEEDS})")
    parser.add_argument("--epochs", type=positive, default=EPOCHS, metavar="N", help=f"of a run (default: {EPOCHS})")
    parser.add_argument(
        "--learning-rate",
        type=_rates,
        default=list(LEARNING_RATES),
        metavar="R,..",
        help=f"of both networks (default: {','.join(f'{rate:g}' for rate in LEARNING_RATES)})",
    )
    parser.add_argument("--limit", type=positive, metavar="N", help="at most so many training images, to try things")
    parser.add_argument(
        "--runs",
        default=RUNS,
        metavar="FOLDER",
        help=f"for checkpoints; a run that is there goes on (default: {RUNS})",
    )
    parser.add_argument("--pairs", default=",".join(PAIRS), metavar="NAME,..", help=f"to time, of {', '.join(PAIRS)}")
    parser.add_argument("--batch", type=counts, default=[1, 16], metavar="N,..", help="to time (default: 1,16)")
    parser.add_argument("--image-size", type=positive, metavar="N", help="of the tiny networks, to time")
    parser.add_argument(
        "--vs", metavar="PEER,..", help=f"to time (default: {','.join(training_speed.PEERS)}, where they are installed)"
    )
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--accuracy-only", action="store_true", help="train")
    part.add_argument("--speed-only", action="store_true", help="measure the latencies")


def measure(arguments: argparse.Namespace, machine: Machine, listener: Listener) -> Iterator[list[Record]]:
    """The record of one training run after the other, then the records of one comparison of latencies after another.

    Training uses the first of the numbers of threads.
    """
    threads = arguments.threads or [machine.cores]
    for count in threads:
        check_threads(count, machine)
    pairs = check_pairs(words(arguments.pairs))
    field = training_speed.Field(words(arguments.vs) if arguments.vs else None, listener)
    if not arguments.speed_only:
        runs = training_runs.measure(
            contestants(),
            arguments.learning_rate,
            arguments.seeds,
            arguments.epochs,
            threads[0],
            Path(arguments.runs),
            arguments.limit,
            listener,
        )
        for record in runs:
            yield [{**records.environment(machine, training_runs.versions()), **record}]
    if not arguments.accuracy_only:
        protocol = Protocol(seconds=arguments.seconds, least_rounds=training_speed.LEAST_ROUNDS)
        yield from training_speed.measure(
            machine, pairs, arguments.batch, threads, field, protocol, listener, arguments.image_size
        )


def _rates(text: str) -> list[float]:
    """argparse's type for learning rates separated by commas; which of them make sense, the recipe knows."""
    try:
        return [float(word) for word in words(text)]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no number, and no numbers with commas between") from error
