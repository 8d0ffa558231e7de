"""`grouped`: 1 < g < c. Each group of c/g input channels makes its own k/g outputs.

Three ways, by the width of a group's output against the machine's vectors:
* Groups that divide a vector or fill it (group width 8 is the important case): the lanes of a vector of sums are the
  outputs of one group for as many of its input channels as there are such groups in a vector, so that what they are
  multiplied by is a load that repeats those channels. No instruction but multiply-adds and loads between the first
  product and the last; see `cpu.BroadcastKernel`.
* Those whose input channels cannot be divided so (c/g = 3, or channel multipliers): a vector holds several groups, and
  a permutation of an input vector serves all taps of the filter row.
* Wider groups: g matrix products side by side, each through the indirection buffer, as in `indirect`.

The first two go row by row and tile by tile of columns (`waterline.algorithms.columns`).

Work: n*p*q*k*(c/g)*r*s multiply-adds. Numerics: in the first case as many chains as an output has lanes, each over
(r, its channels, s), added up at the end; one chain over (r, c, s) in the second, over (r, s, c) in the third.
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
from waterline.algorithms.grouped.cpu import BroadcastKernel, PermuteKernel
from waterline.algorithms.indirect.model import indirect_call, indirect_tables, product_of, refuse_offsets
from waterline.algorithms.row_layer import row_call, windows
from waterline.codegen.cpu.gemm import LOAD_CYCLES
from waterline.machine import Machine
from waterline.spec import ConvSpec

# Columns of a tile and taps of a filter row that stay in registers together where vectors are permuted, by the number
# of vector registers.
COLUMNS_AND_TAPS = {16: 10, 32: 19}
# Vectors of sums and taps where channels are repeated, by instruction set: AArch64 repeats from an address in a
# register. (Group width 8 on AVX-512, 3x3: 73, 74, 71 and 63 % of peak with 14, 20, 22 and 26 sums.)
SUMS_AND_TAPS = {"avx512": 23, "avx2": 13, "avx": 12, "sse2": 12, "neon": 14}
LONGEST_FILTER_ROW = 9


@dataclass(frozen=True)
class ColumnConfig:
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

    def configs(self, spec: ConvSpec, machine: Machine) -> list[ColumnConfig | GemmConfig]:
        found: list[ColumnConfig | GemmConfig] = []
        if _has_columns(spec, machine.lanes()):
            found.append(_columns(spec, machine))
        found += gemm_configs(product_of(spec), machine, count=2)
        return sorted(found, key=lambda config: self.cost(spec, config, machine).seconds)

    def cost(self, spec: ConvSpec, config: ColumnConfig | GemmConfig, machine: Machine) -> Cost:
        if isinstance(config, GemmConfig):
            product = product_of(spec)
            seconds = gemm_seconds(spec, product, config, machine, spec.n)
            return Cost(seconds, spec.n * product_flops(product, machine), spec.least_bytes)
        cycles = spec.n * spec.p * self.row_cycles(spec, config, machine) + epilogue_cycles(spec, machine)
        seconds = cycles / clock_hz(machine) / machine.cores
        return Cost(overlapped(seconds, moving_seconds(spec, machine)), spec.flops, spec.least_bytes)

    def row_cycles(self, spec: ConvSpec, config: ColumnConfig, machine: Machine) -> float:
        """Cycles of one row of output by permutations, without its activations."""
        blocks = -(-spec.k // machine.lanes())
        tiles = -(-spec.q // config.width)
        columns = (config.width - 1) * spec.stride[1] + spec.s
        macs = max(config.width / machine.multiply_adds_per_cycle, float(machine.fma_latency)) * spec.s
        if _permutes(spec, machine.lanes()):
            step = max(macs, (macs + columns / 2) * 0.75)
        else:
            step = macs + LOAD_CYCLES * (columns + spec.s)
        tile = spec.r * spec.group_c * step + 16 + 2 * config.width
        return blocks * tiles * tile

    def implement(
        self, spec: ConvSpec, config: ColumnConfig | GemmConfig, views: Views, machine: Machine
    ) -> Implementation:
        seconds = self.cost(spec, config, machine).seconds
        if isinstance(config, GemmConfig):
            return Implementation((indirect_call(spec, config, views, machine, seconds),))
        rows, columns = windows(spec)
        kernel = (PermuteKernel if _permutes(spec, machine.lanes()) else BroadcastKernel)(
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
        config: ColumnConfig | GemmConfig,
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
        chosen = weight[outputs].astype(np.float32)  # block, lane, c, r, s
        if _permutes(spec, lanes):
            ordered = chosen.transpose(0, 3, 2, 4, 1)
        else:
            groups = lanes // spec.group_k
            parts = chosen.reshape(blocks, groups, spec.group_k, spec.group_c // groups, groups, spec.r, spec.s)
            ordered = parts.transpose(0, 5, 3, 1, 6, 2, 4)  # block, r, step, group, s, output, channel of the step
        packed = {"weight": np.ascontiguousarray(ordered).reshape(-1)}
        if bias is not None:
            packed["bias"] = np.ascontiguousarray(bias, np.float32)
        return packed

    def pack_tables(
        self, spec: ConvSpec, config: ColumnConfig | GemmConfig, views: Views, machine: Machine
    ) -> dict[str, np.ndarray]:
        return indirect_tables(spec, config, views) if isinstance(config, GemmConfig) else {}


def _has_columns(spec: ConvSpec, lanes: int) -> bool:
    """Whole groups in a vector of outputs, their inputs in one vector, and a filter row that fits the registers."""
    return (
        lanes % spec.group_k == 0
        and lanes // spec.group_k * spec.group_c <= lanes
        and spec.k >= lanes
        and spec.s <= LONGEST_FILTER_ROW
        and spec.upsample == (1, 1)
    )


def _permutes(spec: ConvSpec, lanes: int) -> bool:
    """Whether input channels cannot be divided among the lanes of an output."""
    return spec.group_c % (lanes // spec.group_k) != 0


def _columns(spec: ConvSpec, machine: Machine) -> ColumnConfig:
    """The widest tile that stays in registers: sums, a filter row of weights and one vector of input."""
    lanes = machine.lanes()
    if _permutes(spec, lanes):
        widest = COLUMNS_AND_TAPS[machine.vector_registers] - spec.s
    else:
        widest = (SUMS_AND_TAPS[machine.isa] - spec.s) // (lanes // spec.group_k)
    return ColumnConfig(even_width(spec.q, max(1, widest)))
