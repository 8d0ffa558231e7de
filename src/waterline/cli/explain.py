"""`waterline explain`: what the planner chose, and why."""

from __future__ import annotations

import argparse

import waterline
from waterline.bench.workload import Workload
from waterline.cli.common import add_engine, add_network


def configure(parser: argparse.ArgumentParser) -> None:
    add_network(parser)
    add_engine(parser)


def execute(arguments: argparse.Namespace) -> int:
    workload = Workload.named(arguments.model, arguments.image_size)
    net = waterline.compile(workload.model, num_threads=arguments.threads, dtype=arguments.dtype)
    print(net.explain())
    return 0
