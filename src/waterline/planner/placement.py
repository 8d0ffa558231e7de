"""Concatenations without copies: their inputs are written where the concatenation will read them.

Of channels in NHWC: each input becomes a range of channels of the whole. A concatenation whose inputs stand side by
side in a larger one (as in dense blocks) becomes a range of that one's channels itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from waterline.graph import Graph, Node
from waterline.graph.ops import (
    AdaptivePool,
    BatchNorm,
    Binary,
    Concat,
    Conv,
    ConvTranspose,
    LocalResponseNorm,
    Pool,
    PRelu,
    Resize,
    Unary,
)

# Operations whose kernels write channels-last views of any pixel distance.
_WRITERS = (
    Conv,
    ConvTranspose,
    Pool,
    AdaptivePool,
    Unary,
    Binary,
    PRelu,
    Resize,
    LocalResponseNorm,
    BatchNorm,
    Concat,
)


@dataclass(frozen=True)
class Placement:
    """A tensor lies in the channels of `whole` (another tensor) from `channel` on."""

    whole: str
    channel: int


def place_concats(graph: Graph) -> dict[str, Placement]:
    """Tensor -> its place in a concatenation's output; places are direct: `whole` is itself placed nowhere."""
    concats = [node for node in graph.nodes if _is_channel_concat(graph, node)]
    concats.sort(key=lambda node: -len(node.inputs))
    producers = graph.producers()
    places: dict[str, Placement] = {}
    for node in concats:
        whole, base = _resolve(places, node.output)
        channel = base
        taken = {name for name in node.inputs if node.inputs.count(name) > 1}
        for name in node.inputs:
            producer = producers.get(name)
            free = name not in places and name not in taken and name != whole
            if free and producer is not None and isinstance(producer.op, _WRITERS) and name not in graph.outputs:
                _move(places, name, Placement(whole, channel))
            channel += graph.shapes[name][1]
        # A smaller concatenation of neighbours among these inputs needs no memory of its own.
        for other in concats:
            at = _position(node.inputs, other.inputs)
            if other is node or at is None or other.output in places or other.output in graph.outputs:
                continue
            if other.output not in node.inputs:
                before = sum(graph.shapes[name][1] for name in node.inputs[:at])
                _move(places, other.output, Placement(whole, base + before))
    return places


def _is_channel_concat(graph: Graph, node: Node) -> bool:
    return isinstance(node.op, Concat) and node.op.axis == 1 and len(graph.shapes[node.output]) == 4


def _resolve(places: dict[str, Placement], name: str) -> tuple[str, int]:
    place = places.get(name)
    return (name, 0) if place is None else (place.whole, place.channel)


def _move(places: dict[str, Placement], name: str, place: Placement) -> None:
    """Places `name`, and with it everything that was placed in it."""
    places[name] = place
    for inner, old in list(places.items()):
        if old.whole == name:
            places[inner] = Placement(place.whole, place.channel + old.channel)


def _position(longer: tuple[str, ...], shorter: tuple[str, ...]) -> int | None:
    """Where `shorter` stands in `longer` as a run of neighbours."""
    for at in range(len(longer) - len(shorter) + 1):
        if longer[at : at + len(shorter)] == shorter:
            return at
    return None
