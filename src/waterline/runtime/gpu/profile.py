"""The profile of a network on a GPU: every step by itself in a CUDA graph, and the whole network in its own.

A step is repeated, so that its tensors are in the second-level cache where they fit it, as they are inside the network.
Times of steps do not have to add up to the network's: in that one the next kernel starts while the last ends.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch

from waterline.runtime.gpu.program import GpuProgram
from waterline.runtime.profile import Report, row_of

LEAST_ROUNDS = 3


def measure(program: GpuProgram, inputs: Sequence[torch.Tensor], seconds: float) -> Report:
    """Runs the network, then all its steps in turn for about `seconds` and three times at least. In the interpreter,
    where times say nothing, once."""
    program.run(inputs)
    plan, target, runs = program.plan, program.target, program.step_runs
    deadline = time.monotonic() + seconds
    least = 1 if program.device.is_interpreted else LEAST_ROUNDS
    steps: list[list[float]] = []
    networks: list[float] = []
    while len(steps) < least or (time.monotonic() < deadline and not program.device.is_interpreted):
        networks.append(program.whole_run.seconds())
        steps.append([0.0 if run is None else run.seconds() for run in runs])
    medians = 1e9 * np.median(np.array(steps).reshape(len(steps), len(runs)), axis=0)
    return Report(
        network=plan.network,
        machine=target.name,
        threads=1,
        runs=len(steps),
        peak_flops_per_s=target.peak(),
        bytes_per_s=target.bytes_per_s("dram"),
        rows=tuple(row_of(step, float(ns), target, 1) for step, ns in zip(plan.steps, medians, strict=True)),
        time_ns=1e9 * float(np.median(networks)),
    )


__all__ = ["measure"]
