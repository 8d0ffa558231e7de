"""`depthwise`: every channel is convolved with its own filter. Any filter, stride, dilation and padding.

`y[n,k,p,q] = sum_{r,s} x[n,k,p sh + r dh - top, q sw + s dw - left] w[k,r,s]`, vectors along the channels (NHWC). A
tile is a run of output columns of one row; see `waterline.algorithms.columns`.

Work: n*p*q*k*r*s multiply-adds less those that would meet padding. Numerics: one chain over (r, s), then the bias.
The layer has little arithmetic for its bytes: its bound is nearly always a cache's bandwidth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from waterline.algorithms.base import Algorithm, Cost, Implementation, Refusal, Views
from waterline.algorithms.blocking import clock_hz, epilogue_cycles, moving_seconds, overlapped
from waterline.algorithms.columns import even_width
from waterline.algorithms.depthwise.cpu import DepthwiseKernel
from waterline.algorithms.row_layer import row_call, windows
from waterline.machine import Machine
from waterline.spec import ConvSpec

WIDEST_TILE = 16
# Taps of a filter row: their code is unrolled, again for each tile that sees the padding otherwise, and compiling it
# takes time with the square of their number (1024 taps: minutes).
MOST_ROW_TAPS = 128
# Vector registers that LLVM needs for itself: for products, for copies where instructions have two
# operands (SSE2), for loads that it moves up (NEON). `tests/codegen/test_assembly.py` holds the bound.
SPARE_REGISTERS = {"sse2": 6, "neon": 14}


@dataclass(frozen=True)
class DepthwiseConfig:
    """Columns and channel vectors of a tile, and filter columns held in registers at a time."""

    width: int
    vectors: int
    live_taps: int


class Depthwise(Algorithm):
    name = "depthwise"

    def refuse(self, spec: ConvSpec, machine: Machine) -> Refusal | None:
        if not spec.is_depthwise or spec.k != spec.c:
            return Refusal(
                f"it computes one channel a group, the layer has {spec.c} -> {spec.k} in {spec.groups} groups"
            )
        if spec.s > MOST_ROW_TAPS:
            return Refusal(f"it unrolls filter rows of up to {MOST_ROW_TAPS} taps, the layer's have {spec.s}")
        if spec.upsample != (1, 1):
            return Refusal(f"it does not insert zeros, the layer upsamples by {spec.upsample}")
        return None

    def configs(self, spec: ConvSpec, machine: Machine) -> list[DepthwiseConfig]:
        registers = machine.vector_registers - SPARE_REGISTERS.get(machine.isa, 2)
        found = []
        channel_vectors = -(-spec.c // machine.lanes())
        for vectors in (1, 2):
            if vectors > channel_vectors or (vectors > 1 and spec.c < vectors * machine.lanes()):
                continue
            live = min(spec.s, max(1, registers // (3 * vectors)))
            widest = min(WIDEST_TILE, (registers - live * vectors - 1) // vectors)
            found.append(DepthwiseConfig(even_width(spec.q, max(1, widest)), vectors, live))
        return sorted(found, key=lambda config: self.cost(spec, config, machine).seconds)

    def row_cycles(self, spec: ConvSpec, config: DepthwiseConfig, machine: Machine) -> float:
        """Cycles of one row of output, without its activations."""
        blocks = -(-spec.c // (config.vectors * machine.lanes()))
        tiles = -(-spec.q // config.width)
        chains = config.width * config.vectors
        macs = max(chains / machine.multiply_adds_per_cycle, float(machine.fma_latency)) * spec.s
        loads = config.vectors * ((config.width - 1) * spec.stride[1] + 2 * spec.s) / 2
        tile = spec.r * max(macs, loads) + 16 + 2 * chains
        return blocks * tiles * tile

    def cost(self, spec: ConvSpec, config: DepthwiseConfig, machine: Machine) -> Cost:
        cycles = spec.n * spec.p * self.row_cycles(spec, config, machine) + epilogue_cycles(spec, machine)
        arithmetic = cycles / clock_hz(machine) / machine.cores
        return Cost(overlapped(arithmetic, moving_seconds(spec, machine)), spec.flops, spec.least_bytes)

    def implement(self, spec: ConvSpec, config: DepthwiseConfig, views: Views, machine: Machine) -> Implementation:
        rows, columns = windows(spec)
        kernel = DepthwiseKernel(
            rows=rows,
            columns=columns,
            width=config.width,
            vectors=config.vectors,
            output_channels=spec.k,
            x_strides=(views.x.strides[2], views.x.strides[3]),
            y_strides=(views.y.strides[2], views.y.strides[3]),
            residual_strides=(views.residual.strides[2], views.residual.strides[3]) if views.residual else (0, 0),
            epilogue=spec.epilogue,
            live_taps=config.live_taps,
        )
        return Implementation((row_call(kernel, spec, views, self.cost(spec, config, machine).seconds),))

    def pack_weights(
        self, spec: ConvSpec, config: DepthwiseConfig, weight: np.ndarray, bias: np.ndarray | None, machine: Machine
    ) -> dict[str, np.ndarray]:
        packed = {"weight": np.ascontiguousarray(weight.reshape(spec.k, spec.taps).T, np.float32)}
        if bias is not None:
            packed["bias"] = np.ascontiguousarray(bias, np.float32)
        return packed
