"""`grouped`: 1 < g < c. Each group of c/g input channels makes its own k/g outputs.

Two ways, chosen by the width of a group's output against the machine's vectors:
* Narrower groups (k/g divides the lanes; group width 8 is the important case): a vector holds several groups. Loading
  c/g input channels of each of these groups and permuting them in registers costs one shuffle a channel and input
  pixel, which all taps of the filter row share. See `waterline.algorithms.columns` for the frame.
* Wider groups: g matrix products side by side, each through the indirection buffer, as in `indirect`.

Work: n*p*q*k*(c/g)*r*s multiply-adds. Numerics: one chain, over (r, c, s) in the first case, (r, s, c) in the second.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from waterline.algorithms.base import Algorithm, Cost, Implementation, Refusal, Views
from waterline.algorithms.blocking import (
    GemmConfig,
    clock_hz,
    epilogue_cycles,
    gemm_configs,
    gemm_seconds,
    moving_seconds,
    overlapped,
    product_flops,
)
from waterline.algorithms.columns import even_width
from waterline.algorithms.gemm_layer import pack_gemm_weights
from waterline.algorithms.grouped.cpu import GroupedKernel
from waterline.algorithms.indirect.model import indirect_call, indirect_tables, product_of, refuse_offsets
from waterline.algorithms.row_layer import row_call, windows
from waterline.machine import Machine
from waterline.spec import ConvSpec

# Columns of a tile and taps of a filter row that stay in registers together, by the number of vector registers.
COLUMNS_AND_TAPS = {16: 10, 32: 19}
LONGEST_FILTER_ROW = 9


@dataclass(frozen=True)
class PermuteConfig:
    """Columns of a tile."""

    width: int


class Grouped(Algorithm):
    name = "grouped"

    def refuse(self, spec: ConvSpec, machine: Machine) -> Refusal | None:
        if spec.groups == 1:
            return Refusal("the layer has one group")
        if spec.is_depthwise and spec.k == spec.c and spec.upsample == (1, 1):
            return Refusal("each group is one channel: the layer is depthwise's")
        return refuse_offsets(spec)

    def configs(self, spec: ConvSpec, machine: Machine) -> list[PermuteConfig | GemmConfig]:
        found: list[PermuteConfig | GemmConfig] = []
        if _can_permute(spec, machine.lanes()):
            widest = COLUMNS_AND_TAPS[machine.vector_registers] - spec.s
            found.append(PermuteConfig(even_width(spec.q, max(1, widest))))
        found += gemm_configs(product_of(spec), machine, count=2)
        return sorted(found, key=lambda config: self.cost(spec, config, machine).seconds)

    def cost(self, spec: ConvSpec, config: PermuteConfig | GemmConfig, machine: Machine) -> Cost:
        if isinstance(config, GemmConfig):
            product = product_of(spec)
            seconds = gemm_seconds(spec, product, config, machine, spec.n)
            return Cost(seconds, spec.n * product_flops(product, machine), spec.least_bytes)
        cycles = spec.n * spec.p * self.row_cycles(spec, config, machine) + epilogue_cycles(spec, machine)
        seconds = cycles / clock_hz(machine) / machine.cores
        return Cost(overlapped(seconds, moving_seconds(spec, machine)), spec.flops, spec.least_bytes)

    def row_cycles(self, spec: ConvSpec, config: PermuteConfig, machine: Machine) -> float:
        """Cycles of one row of output by permutations, without its activations."""
        blocks = -(-spec.k // machine.lanes())
        tiles = -(-spec.q // config.width)
        macs = max(config.width / machine.multiply_adds_per_cycle, float(machine.fma_latency)) * spec.s
        shuffles = ((config.width - 1) * spec.stride[1] + spec.s) / 2
        tile = spec.r * spec.group_c * max(macs, (macs + shuffles) * 0.75) + 16 + 2 * config.width
        return blocks * tiles * tile

    def implement(
        self, spec: ConvSpec, config: PermuteConfig | GemmConfig, views: Views, machine: Machine
    ) -> Implementation:
        seconds = self.cost(spec, config, machine).seconds
        if isinstance(config, GemmConfig):
            return Implementation((indirect_call(spec, config, views, machine, seconds),))
        rows, columns = windows(spec)
        kernel = GroupedKernel(
            rows=rows,
            columns=columns,
            width=config.width,
            vectors=1,
            output_channels=spec.k,
            x_strides=(views.x.strides[2], views.x.strides[3]),
            y_strides=(views.y.strides[2], views.y.strides[3]),
            residual_strides=(views.residual.strides[2], views.residual.strides[3]) if views.residual else (0, 0),
            epilogue=spec.epilogue,
            group_c=spec.group_c,
            group_k=spec.group_k,
        )
        return Implementation((row_call(kernel, spec, views, seconds),))

    def pack_weights(
        self,
        spec: ConvSpec,
        config: PermuteConfig | GemmConfig,
        weight: np.ndarray,
        bias: np.ndarray | None,
        machine: Machine,
    ) -> dict[str, np.ndarray]:
        if isinstance(config, GemmConfig):
            return pack_gemm_weights(spec, config, weight, bias, machine)
        lanes = machine.lanes()
        blocks = -(-spec.k // lanes)
        # Outputs of block b, the last one stepping back as the kernel does.
        first = np.minimum(np.arange(blocks) * lanes, spec.k - lanes)
        outputs = first[:, None] + np.arange(lanes)[None, :]
        packed = {"weight": np.ascontiguousarray(weight[outputs].transpose(0, 3, 2, 4, 1), np.float32)}
        if bias is not None:
            packed["bias"] = np.ascontiguousarray(bias, np.float32)
        return packed

    def pack_tables(
        self, spec: ConvSpec, config: PermuteConfig | GemmConfig, views: Views, machine: Machine
    ) -> dict[str, np.ndarray]:
        return indirect_tables(spec, config, views) if isinstance(config, GemmConfig) else {}


def _can_permute(spec: ConvSpec, lanes: int) -> bool:
    """Whole groups in a vector of outputs, their inputs in one vector, and a filter row that fits the registers."""
    return (
        spec.group_k < lanes
        and lanes % spec.group_k == 0
        and lanes // spec.group_k * spec.group_c <= lanes
        and spec.k >= lanes
        and spec.s <= LONGEST_FILTER_ROW
        and spec.upsample == (1, 1)
    )
