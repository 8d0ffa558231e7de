"""`im2col`: the patch matrix is written out, then multiplied. The honest baseline of `indirect`: the same micro-kernel.

The patch matrix of one image has p*q rows of r*s*c elements; it is a workspace of the layer, for all images at once.
Two phases: "patches" copies, "gemm" multiplies. Work and numerics: the direct algorithm's.
"""

from __future__ import annotations

import numpy as np

from waterline.algorithms.base import Algorithm, Cost, Implementation, Refusal, Views, chunk_items
from waterline.algorithms.blocking import GemmConfig, Product, gemm_configs, gemm_seconds, product_flops
from waterline.algorithms.gemm_layer import LeftOperand, Rows, gemm_call, pack_gemm_weights, pixel_stride
from waterline.algorithms.im2col.cpu import PatchKernel
from waterline.algorithms.indirect.model import refuse_offsets, tap_offsets
from waterline.codegen.cpu.gemm import ELEM_BYTES, GemmKernel, row_tails
from waterline.codegen.cpu.kernel import Call, Input, Number, Packed, Workspace
from waterline.machine import Machine
from waterline.spec import ConvSpec


class Im2col(Algorithm):
    name = "im2col"

    def refuse(self, spec: ConvSpec, machine: Machine) -> Refusal | None:
        if spec.groups != 1:
            return Refusal(f"it computes one group, the layer has {spec.groups}")
        return refuse_offsets(spec)

    def configs(self, spec: ConvSpec, machine: Machine) -> list[GemmConfig]:
        return gemm_configs(_product(spec), machine)

    def cost(self, spec: ConvSpec, config: GemmConfig, machine: Machine) -> Cost:
        product = _product(spec)
        patch_bytes = spec.n * product.rows * product.depth * ELEM_BYTES
        level = (
            "l2"
            if patch_bytes < machine.l2_bytes // 2
            else "l3"
            if patch_bytes < machine.l3_share_bytes // 2
            else "dram"
        )
        copy = 2 * patch_bytes / machine.bytes_per_s(level, machine.cores)
        seconds = gemm_seconds(spec, product, config, machine, spec.n) + copy
        flops = spec.n * product_flops(product, machine)
        return Cost(seconds, flops, spec.least_bytes + 2 * patch_bytes)

    def implement(self, spec: ConvSpec, config: GemmConfig, views: Views, machine: Machine) -> Implementation:
        product = _product(spec)
        seconds = self.cost(spec, config, machine).seconds
        patches = PatchKernel(taps=spec.taps, channels=spec.c)
        copy = Call(
            patches,
            (
                Input(0),
                Packed("offsets"),
                Workspace("patches"),
                Number(product.rows),
                Number(views.x.strides[0] * ELEM_BYTES),
            ),
            items=spec.n * product.rows,
            chunk=chunk_items(spec.n * product.rows, seconds / 4),
            phase="patches",
        )
        chunking = config.chunking(product)
        kernel = GemmKernel(
            runs=chunking.runs,
            run_elems=chunking.run_elems,
            columns=spec.k,
            groups=1,
            tile=config.tile,
            tails=row_tails(product.rows, config.rows),
            block_tiles=config.block_tiles,
            panel_outer=config.panel_outer,
            row_stride_elems=product.depth,
            y_stride_elems=pixel_stride(views.y),
            residual_stride_elems=pixel_stride(views.residual) if views.residual else 0,
            epilogue=spec.epilogue,
            chunk_runs=chunking.chunk_runs,
            prefetch_passes=chunking.prefetch_passes,
            near_bytes=config.near_bytes,
            group_images=config.group_images,
        )
        rows = Rows.of_images(spec.n, product.rows, config)
        left = LeftOperand(Workspace("patches"), product.rows * product.depth)
        multiply = gemm_call(kernel, spec, views, machine, rows, seconds, left, phase="gemm")
        return Implementation((copy, multiply), {"patches": spec.n * product.rows * product.depth * ELEM_BYTES})

    def pack_weights(
        self, spec: ConvSpec, config: GemmConfig, weight: np.ndarray, bias: np.ndarray | None, machine: Machine
    ) -> dict[str, np.ndarray]:
        return pack_gemm_weights(spec, config, weight, bias, machine)

    def pack_tables(self, spec: ConvSpec, config: GemmConfig, views: Views, machine: Machine) -> dict[str, np.ndarray]:
        return {"offsets": np.ascontiguousarray(tap_offsets(spec, views.x))}


def _product(spec: ConvSpec) -> Product:
    return Product(spec.p * spec.q, 1, spec.taps * spec.c, spec.k, 1, False, spec.taps * spec.c * float(ELEM_BYTES))
