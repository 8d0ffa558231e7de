"""Whole networks in bf16: our plan in one CUDA graph beside PyTorch, eager with cuDNN's measured choices and compiled.

Every network first without Inductor, whose compilation takes longer than everything else of a network together, but for
the two that it matters most for. With what time is left networks have another turn, with it.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

from waterline import models
from waterline.bench.gpu.graphs import CHOSEN, FUSED, SINGLE, GraphCase, Way, as_chosen, fused_wherever, single
from waterline.bench.gpu.place import Place
from waterline.models import ConvFirstConfig

PROTOCOL = "gpu networks"
FIRST = ("convfirst_tiny", "convnext_tiny")
NETWORKS = (
    "resnet50",
    "convnext_tiny",
    "efficientnet_b0",
    "mobilenet_v2",
    "resnet18",
    "vgg16",
    "squeezenet1_0",
)
BATCHES = (64, 1)
FIRST_BATCHES = (64, 256)
QUICK = "squeezenet1_0"
TINY = "convfirst of one block"
TINY_CONFIG, TINY_SIZE = ConvFirstConfig((1,), (16,), head_width=16), 16
# Inductor's modes: the second takes minutes for a network.
COMPILED, MEASURED = "reduce-overhead", "max-autotune"


def cases(place: Place) -> list[GraphCase]:
    """What tells most first. A network that comes twice is measured once more, with Inductor."""
    if place.is_interpreted or place.is_quick:
        return [_case(place, TINY if place.is_interpreted else QUICK, place.batches_of(BATCHES)[0])]
    large, small = place.batches_of(FIRST_BATCHES), place.batches_of(BATCHES)
    begun = [(name, large[0]) for name in FIRST]
    wanted = [(name, batch) for batch in small for name in NETWORKS]
    wanted += [(name, batch) for batch in large[1:] for name in FIRST]
    wanted = [each for each in dict.fromkeys(wanted) if each not in begun]
    found = [_case(place, *each) for each in wanted[: len(NETWORKS) - 1]]
    found += [_case(place, *each, COMPILED) for each in begun]
    found += [_case(place, *each) for each in wanted[len(NETWORKS) - 1 :]]
    found += [_case(place, *each, MEASURED, is_again=True) for each in begun]
    found += [_case(place, *each, COMPILED, is_again=True) for each in wanted]
    return found


def _case(place: Place, name: str, batch: int, inductor: str = "", *, is_again: bool = False) -> GraphCase:
    size = TINY_SIZE if name == TINY else models.default_image_size(name)
    precision = place.precision("bf16")
    ways: dict[str, Way] = {CHOSEN: as_chosen}
    if name in (*FIRST, TINY):  # whether the planner was right about their blocks
        ways |= {FUSED: partial(fused_wherever, place=place, precision=precision), SINGLE: single}
    return GraphCase(
        PROTOCOL,
        name,
        partial(_model, name),
        (3, size, size),
        batch,
        precision,
        place,
        ways,
        inductor,
        is_again=is_again,
    )


@cache
def _model(name: str) -> Any:
    """Made once for all batches: it takes as long as a measurement."""
    return models.build_convfirst(TINY_CONFIG, TINY_SIZE) if name == TINY else models.build(name)


__all__ = ["cases"]
