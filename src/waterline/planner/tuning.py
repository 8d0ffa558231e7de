"""What is worth measuring of a network: its different layers, and a few good candidates of each. Measures nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from waterline.graph import Graph
from waterline.machine import Machine
from waterline.planner.build import PlanOptions
from waterline.planner.choice import Offer, offers
from waterline.planner.lower import lower
from waterline.planner.measurements import layer_key
from waterline.planner.target import Target, target_of
from waterline.spec import ConvSpec

# Candidates of a layer that are measured, and how much more than the best one they may cost by the model. Models of
# different algorithms were seen to be wrong by up to a factor of two against each other.
MOST_CANDIDATES = 8
WORTH_MEASURING = 2.5


@dataclass(frozen=True)
class TuningTask:
    """A layer to be measured.

    Attributes:
        key: of `layer_key`.
        name: of the first node that has this layer. count: how many have it.
        spec: with the network's batch (1 where that is empty).
        candidates: the best by cost first; a single one is measured for `explain` only.
        others_bytes: what the rest of the network moves through the caches between two runs of the layer: the other
            layers' weights, and the largest of their inputs and outputs.
    """

    key: str
    name: str
    count: int
    spec: ConvSpec
    candidates: tuple[Offer, ...]
    others_bytes: int

    @property
    def weight(self) -> float:
        """The layer's predicted part of the network's time, in seconds of the whole batch."""
        return self.candidates[0].seconds * self.spec.n * self.count


def tuning_tasks(graph: Graph, machine: Machine | Target, options: PlanOptions | None = None) -> list[TuningTask]:
    """The different layers, in the network's order."""
    options = options or PlanOptions()
    target = target_of(machine)
    lowered = lower(graph, target.layouts)
    layers = [(layer.name, layer.spec) for layer in lowered.layers if isinstance(layer.spec, ConvSpec)]
    groups: dict[str, list[tuple[str, ConvSpec]]] = {}
    for name, spec in layers:
        key = layer_key(spec, options.algorithms, options.accuracy, target.decided(spec).n)
        groups.setdefault(key, []).append((name, spec))
    weight_bytes = lowered.weight_bytes
    target = target.for_weights(weight_bytes)
    tasks = []
    for key, members in groups.items():
        name, spec = members[0]
        spec = spec.with_batch(max(spec.n, 1))
        candidates = worth_measuring(offers(spec, target, options.algorithms, options.accuracy))
        others = [other for _, other in layers if other != spec]
        tensors = max((other.input_bytes + other.output_bytes for other in others), default=0)
        moved = weight_bytes - spec.weight_bytes + tensors
        if candidates:
            tasks.append(TuningTask(key, name, len(members), spec, candidates, moved))
    return tasks


def worth_measuring(ranked: Sequence[Offer]) -> tuple[Offer, ...]:
    """Of offers by cost: the best config of each name:variant, then more configs, as far as they may be the fastest."""
    ranked = [offer for offer in ranked if not offer.algorithm.is_last_resort] or list(ranked)
    near = [offer for offer in ranked if offer.seconds <= WORTH_MEASURING * ranked[0].seconds]
    first = list({offer.label: offer for offer in reversed(near)}.values())  # of each label the cheapest stays
    first.sort(key=lambda offer: offer.seconds)
    chosen = (first + [offer for offer in near if offer not in first])[:MOST_CANDIDATES]
    return tuple(sorted(chosen, key=lambda offer: offer.seconds))
