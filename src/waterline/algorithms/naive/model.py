"""`naive`: the definition, for every layer and every machine. The last resort, and what the others are checked against.

Work: the direct algorithm's, one element at a time. Numerics: one chain of multiply-adds over (r, s, c), then the bias.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from waterline.algorithms.base import Algorithm, Cost, Implementation, Refusal, Views
from waterline.algorithms.blocking import clock_hz
from waterline.algorithms.naive.cpu import NaiveKernel
from waterline.algorithms.row_layer import row_call
from waterline.machine import Machine
from waterline.spec import ConvSpec, Epilogue

# A multiply-add of a scalar chain waits for the one before it.
CYCLES_PER_MAC = 5.0


@dataclass(frozen=True)
class NaiveConfig:
    """There is nothing to choose."""


class Naive(Algorithm):
    name = "naive"

    def refuse(self, spec: ConvSpec, machine: Machine) -> Refusal | None:
        return None

    def configs(self, spec: ConvSpec, machine: Machine) -> list[NaiveConfig]:
        return [NaiveConfig()]

    def cost(self, spec: ConvSpec, config: NaiveConfig, machine: Machine) -> Cost:
        busy = min(machine.cores, spec.n * spec.p)  # rows of the output are what cores share
        return Cost(spec.macs * CYCLES_PER_MAC / clock_hz(machine) / busy, spec.flops, spec.least_bytes)

    def implement(self, spec: ConvSpec, config: NaiveConfig, views: Views, machine: Machine) -> Implementation:
        residual = views.residual
        kernel = NaiveKernel(
            replace(spec, n=1, epilogue=Epilogue()),
            views.x.strides[1:],
            views.y.strides[1:],
            residual.strides[1:] if residual else (),
            spec.epilogue,
        )
        return Implementation((row_call(kernel, spec, views, self.cost(spec, config, machine).seconds),))

    def pack_weights(
        self, spec: ConvSpec, config: NaiveConfig, weight: np.ndarray, bias: np.ndarray | None, machine: Machine
    ) -> dict[str, np.ndarray]:
        packed = {"weight": np.ascontiguousarray(weight, np.float32)}
        if bias is not None:
            packed["bias"] = np.ascontiguousarray(bias, np.float32)
        return packed
