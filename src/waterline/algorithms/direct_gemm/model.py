"""`direct_gemm`: a 1x1 convolution (and a fully connected layer) is a matrix product on the input as it lies.

`y[n,p,q,:] = W x[n,p,q,:]`. In NHWC the pixels are the rows of the left operand, at a constant distance, so nothing is
gathered or copied. Where an image has fewer pixels than a tile has rows (a fully connected layer has one) the batch is
one long column of rows; otherwise tiles do not cross images.

Work: n*p*q*k*c multiply-adds, nothing more. Numerics: one chain of multiply-adds over c, then the bias.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from waterline.algorithms.base import Algorithm, Cost, Implementation, Refusal, Views
from waterline.algorithms.blocking import GemmConfig, Product, gemm_configs, gemm_seconds, product_flops
from waterline.algorithms.gemm_layer import Rows, gemm_call, pack_gemm_weights, pixel_stride
from waterline.codegen.cpu.gemm import ELEM_BYTES, GemmKernel, any_tails, row_tails
from waterline.machine import Machine
from waterline.spec import ConvSpec

# Below so many pixels an image, the rows of all images are taken together: fully connected layers, squeeze-and-excite.
MERGE_BELOW_PIXELS = 6


class DirectGemm(Algorithm):
    name = "direct_gemm"

    def refuse(self, spec: ConvSpec, machine: Machine) -> Refusal | None:
        if spec.groups != 1:
            return Refusal(f"it computes one group, the layer has {spec.groups}")
        if not spec.is_pointwise:
            return Refusal(
                f"it computes 1x1 filters at stride 1 without padding, the layer is {spec.r}x{spec.s}, "
                f"stride {spec.stride}, pad {spec.pad}"
            )
        return None

    def configs(self, spec: ConvSpec, machine: Machine) -> list[GemmConfig]:
        product = _product(spec)
        if _is_merged(spec):
            product = Product(6, 1, spec.c, spec.k, 1, False, spec.c * ELEM_BYTES)
            wide = [c for c in gemm_configs(product, machine, count=16) if c.rows >= 4] or gemm_configs(
                product, machine
            )
            return [GemmConfig(c.rows, c.vectors, c.unroll, 1 << 20, True) for c in wide[:2]]
        return gemm_configs(product, machine)

    def cost(self, spec: ConvSpec, config: GemmConfig, machine: Machine) -> Cost:
        product = _product(spec)
        images = float(spec.n)
        if _is_merged(spec):
            # Rows of several images share a tile, so an image is priced as its share of a full one.
            images *= product.rows / config.rows
            product = replace(product, rows=config.rows)
        seconds = gemm_seconds(spec, product, config, machine, images)
        return Cost(seconds, images * product_flops(product, machine), spec.least_bytes)

    def implement(self, spec: ConvSpec, config: GemmConfig, views: Views, machine: Machine) -> Implementation:
        merged = _is_merged(spec)
        rows = spec.h * spec.w
        chunking = config.chunking(_product(spec))
        kernel = GemmKernel(
            runs=chunking.runs,
            run_elems=chunking.run_elems,
            columns=spec.k,
            groups=1,
            tile=config.tile,
            tails=any_tails(config.rows) if merged else row_tails(rows, config.rows),
            block_tiles=config.block_tiles,
            panel_outer=config.panel_outer,
            row_stride_elems=pixel_stride(views.x),
            y_stride_elems=pixel_stride(views.y),
            residual_stride_elems=pixel_stride(views.residual) if views.residual else 0,
            epilogue=spec.epilogue,
            chunk_runs=chunking.chunk_runs,
            prefetch_passes=chunking.prefetch_passes,
            near_bytes=config.near_bytes,
            group_images=config.group_images,
        )
        images, image_rows = (1, spec.n * rows) if merged else (spec.n, rows)
        blocks = max(1, -(-(image_rows // config.rows) // config.block_tiles))
        seconds = self.cost(spec, config, machine).seconds
        call = gemm_call(kernel, spec, views, machine, Rows(images, image_rows, blocks), seconds)
        return Implementation((call,))

    def pack_weights(
        self, spec: ConvSpec, config: GemmConfig, weight: np.ndarray, bias: np.ndarray | None, machine: Machine
    ) -> dict[str, np.ndarray]:
        return pack_gemm_weights(spec, config, weight, bias, machine)


def _is_merged(spec: ConvSpec) -> bool:
    return spec.h * spec.w < MERGE_BELOW_PIXELS


def _product(spec: ConvSpec) -> Product:
    return Product(spec.h * spec.w, 1, spec.c, spec.k, 1, False, spec.c * ELEM_BYTES)
