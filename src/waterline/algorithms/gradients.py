"""What gradients of convolutions on GPUs share: names of their tensors, and the convolution that a data gradient is.

Layouts: x, dx (n, h, w, c), y, dy (n, p, q, k), weight, dw (k, c/g, r, s), as PyTorch holds them, all dense.
"""

from __future__ import annotations

from dataclasses import replace

from waterline.spec import ConvSpec, Epilogue

DY, DX, WEIGHT, DW = "dy", "dx", "weight", "dw"


def gradient_spec(spec: ConvSpec) -> ConvSpec:
    """The convolution of dy that gives dx: weights reversed, strides and upsampling exchanged."""
    span = [dilation * (taps - 1) for dilation, taps in zip(spec.dilation, (spec.r, spec.s), strict=True)]
    before = [reach - pad for reach, pad in zip(span, spec.pad[:2], strict=True)]
    # What lies behind decides the number of outputs: as many as the layer has inputs.
    behind = [
        (wanted - 1) * step + reach + 1 - ((given - 1) * zeros + 1) - pad
        for wanted, step, reach, given, zeros, pad in zip(
            (spec.h, spec.w), spec.upsample, span, (spec.p, spec.q), spec.stride, before, strict=True
        )
    ]
    return replace(
        spec,
        c=spec.k,
        h=spec.p,
        w=spec.q,
        k=spec.c,
        stride=spec.upsample,
        upsample=spec.stride,
        pad=(before[0], before[1], behind[0], behind[1]),
        epilogue=Epilogue(),
    )


__all__ = ["DW", "DX", "DY", "WEIGHT", "gradient_spec"]
