"""Computational efficiency of every convolution of AlexNet, Overfeat and VGG, after maxDNN (Lavin, 2015)."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Iterator

from waterline import models
from waterline.bench import records
from waterline.bench.command import check_threads, counts, positive, words
from waterline.bench.experiments import Listener, maxdnn_layer
from waterline.bench.experiments.maxdnn_paper import NETWORKS
from waterline.bench.records import Record
from waterline.bench.timing import Protocol
from waterline.errors import InvalidArgument
from waterline.machine import Machine, available_memory_bytes
from waterline.spec import ConvSpec

BATCHES = [1, 4, 16, 64, 128]
LEAST_ROUNDS = 3  # of 128 images a large layer takes seconds
MEMORY_SHARE = 0.8  # of what is available


def configure(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--batch", type=counts, default=BATCHES, metavar="N,..", help=f"default: {','.join(map(str, BATCHES))}"
    )
    parser.add_argument(
        "--network", metavar="NAME", help=f"of the zoo, or several with commas (default: {','.join(NETWORKS)})"
    )
    parser.add_argument("--image-size", type=positive, metavar="N", help="height and width of the image")
    parser.add_argument(
        "--memory-gib",
        type=positive,
        metavar="N",
        help=f"leave out what needs more (default: {MEMORY_SHARE:.0%} of what is available)".replace("%", "%%"),
    )
    parser.add_argument("--no-peer", action="store_true", help="without ONNX Runtime")


def measure(arguments: argparse.Namespace, machine: Machine, listener: Listener) -> Iterator[list[Record]]:
    """The records of one layer and batch after the other: ours, and ONNX Runtime's where it is installed."""
    threads = arguments.threads or [1]
    for count in threads:
        check_threads(count, machine)
    networks = words(arguments.network) if arguments.network else NETWORKS
    layers = [layer for network in networks for layer in layers_of(network, arguments.image_size)]
    protocol = Protocol(seconds=arguments.seconds, least_rounds=LEAST_ROUNDS, least_calls=1)
    with_peer = not arguments.no_peer
    if with_peer and importlib.util.find_spec(maxdnn_layer.PEER) is None:
        listener.say("ONNX Runtime is left out: it is not installed (pip install 'waterline[peers]')")
        with_peer = False
    for count in threads:
        for batch in arguments.batch:
            for layer in layers:
                limit = arguments.memory_gib << 30 if arguments.memory_gib else available()
                found = maxdnn_layer.measure(
                    layer, batch, machine, count, protocol, listener, limit_bytes=limit, with_peer=with_peer
                )
                if found:
                    versions = {record["engine"]: record.pop("version") for record in found}
                    common = records.environment(machine, versions)
                    yield [{**common, **record} for record in found]


def layers_of(network: str, image_size: int | None = None) -> list[maxdnn_layer.Layer]:
    """The different convolutions of a network, with the names of all layers that are the same.

    Raises:
        InvalidArgument: no such network, a too small image, or a layer of several groups.
    """
    names: dict[ConvSpec, list[str]] = {}
    for name, spec in models.convolutions(network, image_size):
        if spec.groups != 1:
            raise InvalidArgument(
                f"{name} of {network} has {spec.groups} groups, which indirect and direct_gemm do not compute",
                f"the paper's networks are {', '.join(NETWORKS)}",
            )
        names.setdefault(spec, []).append(name)
    return [maxdnn_layer.Layer(network, tuple(each), spec) for spec, each in names.items()]


def available() -> int | None:
    """What may be used of the memory that is free now; None where the system does not say."""
    free = available_memory_bytes()
    return None if free is None else int(MEMORY_SHARE * free)
