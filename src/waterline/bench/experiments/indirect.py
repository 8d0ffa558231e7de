"""The indirect convolution algorithm after Dukhan (2019): time and memory against im2col with the same micro-kernel."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from waterline import models
from waterline.bench import records
from waterline.bench.command import check_threads, positive, words
from waterline.bench.experiments import Listener, indirect_memory, indirect_time
from waterline.bench.experiments.indirect_paper import NETWORKS, class_of
from waterline.bench.experiments.indirect_time import NetworkLayer
from waterline.bench.records import Record
from waterline.bench.timing import Protocol
from waterline.machine import Machine


def configure(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--network", metavar="NAME", help=f"of the zoo, or several with commas (default: {','.join(NETWORKS)})"
    )
    parser.add_argument("--image-size", type=positive, metavar="N", help="height and width of the image")
    parser.add_argument("--warm", action="store_true", help="also with weights and outputs in the caches")
    parser.add_argument(
        "--copies", type=positive, metavar="N", help="of a layer's data (default: twice what the caches hold)"
    )
    parser.add_argument("--memory-only", action="store_true", help="the bytes of both buffers, without any timing")


def measure(arguments: argparse.Namespace, machine: Machine, listener: Listener) -> Iterator[list[Record]]:
    """The records of memory first, then those of one layer after the other."""
    threads = arguments.threads or [1]
    for count in threads:
        check_threads(count, machine)
    layers = layers_of(words(arguments.network) if arguments.network else NETWORKS, arguments.image_size)
    common = records.environment(machine, {})
    found = indirect_memory.measure(layers, machine)
    if found:
        yield [{**common, **record} for record in found]
    if arguments.memory_only:
        return
    protocol = Protocol(seconds=arguments.seconds, least_calls=1, burst_s=0.001)
    for count in threads:
        for number, layer in enumerate(layers, 1):
            what = f"{layer.network} {layer.name} ({number} of {len(layers)})"
            for found in indirect_time.measure(
                layer, machine, count, protocol, listener, what, arguments.copies, with_warm=arguments.warm
            ):
                yield [{**common, **record} for record in found]


def layers_of(networks: list[str] | tuple[str, ...], image_size: int | None = None) -> list[NetworkLayer]:
    """The different layers of one group, in the order of their networks.

    Raises:
        InvalidArgument: no such network, or an image that is too small for it.
    """
    found: dict = {}
    for network in networks:
        for name, spec in models.convolutions(network, image_size):
            if spec.groups == 1:
                found.setdefault(spec, NetworkLayer(network, name, spec, class_of(spec)))
    return list(found.values())
