"""Dense 3x3 layers of ResNet-50 and VGG-16 in bf16, and those of VGG-E in exact f32, where Winograd does most."""

from __future__ import annotations

from waterline import models
from waterline.bench.gpu.convolutions import LayerCase, by_batch
from waterline.bench.gpu.place import Place
from waterline.spec import ConvSpec

NETWORKS = ("resnet50", "vgg16")
BATCHES = (64, 1, 256, 16)  # what tells most first
VGG_E = "vgg19"
VGG_BATCHES = (1, 64, 8, 2, 16, 4, 32)  # of the paper's table
INDUCTOR_LAYERS = 2
QUICK = 2
# What the interpreter can do.
TINY = ConvSpec.parse("n1_c16_h5_w4_k16_r3_s3_st1_pd1_dl1_g1")


def bf16(place: Place) -> list[LayerCase]:
    specs = small(place, [spec for network in NETWORKS for spec in threes(network)])
    batches = place.batches_of(BATCHES)
    found = [LayerCase(spec, place.precision("bf16"), place) for spec in by_batch(specs, batches)]
    for case in found[:INDUCTOR_LAYERS]:
        case.has_inductor = True
    return found


def exact(place: Place) -> list[LayerCase]:
    specs = by_batch(small(place, threes(VGG_E)), place.batches_of(VGG_BATCHES))
    return [LayerCase(spec, "f32", place, configs=1) for spec in specs]


def threes(network: str) -> list[ConvSpec]:
    """A network's dense 3x3 layers, each once: stride 1 first, the largest first, what reads the image last."""
    found = dict.fromkeys(spec for _, spec in models.convolutions(network))
    layers = [spec for spec in found if (spec.r, spec.s, spec.groups) == (3, 3, 1)]
    return sorted(layers, key=lambda spec: (spec.c < 16, spec.stride, -spec.flops))


def small(place: Place, specs: list[ConvSpec]) -> list[ConvSpec]:
    """Few of them in a quick run, and one of no size in the interpreter."""
    if place.is_interpreted:
        return [TINY]
    return sorted(specs, key=lambda spec: spec.flops)[:QUICK] if place.is_quick else specs


__all__ = ["TINY", "bf16", "exact", "small", "threes"]
