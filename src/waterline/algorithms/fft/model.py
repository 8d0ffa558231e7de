"""`fft`: convolution as a product of spectra, for large filters and long one-dimensional ones, at stride 1.

`y = F^-1(F(x) conj(F(w)))` on overlapping tiles (overlap-save; Stockham 1966; Mathieu, Henaff and LeCun 2013 for
networks): a tile of n points gives m = n - r + 1 outputs on an axis. Where one tile covers an axis, its points may wrap
into the padding on the other side: `n >= h + max(padding)` is enough instead of `h + both paddings`.

Real input: the rows of a tile are real and keep n_w/2 + 1 frequencies; its columns are complex. A filter of one row
(or column) is a *line*: one sequence of `n_h n_w` points folded into a plane, with twiddle factors between rows and
columns (Bailey's four steps), so that up to 65536 points are two passes over data that stays in the second-level cache.

Per frequency, either one complex multiplication (one channel a group) in registers between the two halves of the
column transforms, all phases of a tile in one kernel; or a complex matrix product over the channels of a group:
* rows of all tiles are transformed, column by column (of the row frequencies) the tiles are transformed, multiplied
  with the spectra of the filters, of which each is read once, and transformed back; then rows again with the epilogue.

Spectra of the filters are computed in float64 and rounded once; the factors of the inverse transform are in them.

Work: 2.5 n log2 n operations a real transform of n points, two a tile and channel; 8 c k a frequency. Numerics: see
`Fft.tolerance`.
"""

from __future__ import annotations

import math

import numpy as np

from waterline.algorithms.base import Algorithm, Cost, Implementation, Phase, Refusal, Views
from waterline.algorithms.fft.filters import pack_filters, pack_turns
from waterline.algorithms.fft.layer import Layer
from waterline.algorithms.fft.pricing import LARGEST_SPECTRA_BYTES, LONGEST_AXIS, Work, candidates, lengths_of
from waterline.algorithms.fft.tiling import FftConfig, is_line
from waterline.codegen.cpu.gemm import pack_bias
from waterline.machine import Machine
from waterline.spec import ConvSpec


class Fft(Algorithm):
    name = "fft"
    mixes_pixels = True

    def refuse(self, spec: ConvSpec, machine: Machine) -> Refusal | None:
        if spec.stride != (1, 1) or spec.dilation != (1, 1) or spec.upsample != (1, 1):
            return Refusal(f"it needs stride 1 and dilation 1, the layer has {spec.stride} and {spec.dilation}")
        if spec.taps == 1:
            return Refusal("a 1x1 filter has nothing to transform")
        longest = LONGEST_AXIS**2 // 2 if is_line(spec) else LONGEST_AXIS // 2
        if max(spec.r, spec.s) > longest:
            return Refusal(f"its filters have at most {longest} taps an axis here, the layer's are {spec.r}x{spec.s}")
        if not candidates(spec, machine):
            least = min(p_h * p_w for p_h, p_w in lengths_of(spec)) * 4 * spec.k * spec.group_c
            return Refusal(
                f"the filters' spectra take {least / 2**20:.0f} MiB, the limit is {LARGEST_SPECTRA_BYTES >> 20} MiB"
            )
        return None

    def accuracy(self, config: FftConfig) -> str:
        """The errors of long sums are below direct summation's, those of short ones up to four times as large."""
        return "default"

    def configs(self, spec: ConvSpec, machine: Machine) -> list[FftConfig]:
        return list(candidates(spec.with_batch(1), machine))

    def tolerance(self, spec: ConvSpec, config: FftConfig) -> float:
        """How much larger the error of an output is than direct summation's.

        Every level of a transform turns its values (two roundings a part, and the factor's own) and adds them (one):
        relative to the norm of the whole tile the variance of the error grows by at most 3 u^2 / 3 a level, and the
        levels add up (Schatzman, "Accuracy of the discrete Fourier transform and the fast Fourier transform", 1996),
        L = log2(points) on the way in, L on the way out, and one each for the filter's rounding and the product. An
        output's share of the norm is that of its d = c r s products: u^2 (2 L + 2) d E[x^2 w^2]. Direct summation has
        u^2 d^2 / 6 E[x^2 w^2] (`reference.bounds`). The chains over c are at most what direct summation has. Together
        sqrt(1 + 12 (L + 1) / d): 3.2 for 3x3 filters of one channel, 1.06 for 31x31.
        """
        levels = math.log2(config.points_h * config.points_w)
        return math.sqrt(1 + 12 * (levels + 1) / (spec.group_c * spec.taps))

    def cost(self, spec: ConvSpec, config: FftConfig, machine: Machine) -> Cost:
        return Work(spec, config, machine).cost()

    def phases(self, spec: ConvSpec, config: FftConfig, machine: Machine) -> tuple[Phase, ...]:
        return Work(spec, config, machine).phases()

    def implement(self, spec: ConvSpec, config: FftConfig, views: Views, machine: Machine) -> Implementation:
        seconds = self.cost(spec, config, machine).seconds
        return Layer(spec, config, views, machine, seconds).implement()

    def pack_weights(
        self, spec: ConvSpec, config: FftConfig, weight: np.ndarray, bias: np.ndarray | None, machine: Machine
    ) -> dict[str, np.ndarray]:
        packed = {"spectra": pack_filters(spec, config, weight, machine), "turns": pack_turns(spec, config, machine)}
        if bias is not None:
            packed["bias"] = pack_bias(bias, machine.lanes())
        return packed
