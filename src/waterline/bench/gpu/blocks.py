"""Residual blocks: as one kernel, as layers one by one in our kernels, and by PyTorch, eager and compiled."""

from __future__ import annotations

from functools import partial

from waterline import models
from waterline.bench.gpu.graphs import FUSED, SINGLE, GraphCase, Way, fused, single
from waterline.bench.gpu.place import Place

PROTOCOL = "gpu blocks"
BATCHES = (64, 256, 1)
# (kind, channels, size): of ConvFirst-tiny, ConvNeXt-tiny and MobileNetV2.
BLOCKS = (
    ("convfirst", 256, 14),
    ("convnext", 384, 14),
    ("convfirst", 128, 28),
    ("convnext", 96, 56),
    ("inverted_residual", 64, 14),
    ("convfirst", 512, 7),
    ("convfirst", 64, 56),
    ("convnext", 192, 28),
    ("inverted_residual", 24, 56),
)
QUICK = (("convfirst", 64, 56),)
TINY = (("convfirst", 16, 4), ("convnext", 16, 4), ("inverted_residual", 16, 4))
MEASURED = 2  # of the first batch, by Inductor's mode that takes long


def cases(place: Place) -> list[GraphCase]:
    precision = place.precision("bf16")
    ways: dict[str, Way] = {FUSED: partial(fused, place=place, precision=precision), SINGLE: single}
    chosen = TINY if place.is_interpreted else QUICK if place.is_quick else BLOCKS
    found = []
    for number, batch in enumerate(place.batches_of(BATCHES)):
        for index, (kind, channels, size) in enumerate(chosen):
            mode = "max-autotune" if number == 0 and index < MEASURED else "reduce-overhead"
            found.append(
                GraphCase(
                    PROTOCOL,
                    f"{kind} block {channels}x{size}x{size}",
                    partial(models.build_block, kind, channels, size),
                    (channels, size, size),
                    batch,
                    precision,
                    place,
                    ways,
                    mode,
                    "block",
                )
            )
    return found


__all__ = ["cases"]
