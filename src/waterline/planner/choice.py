"""Which algorithm computes a layer: refusals, then measured times where there are some, else costs; the least wins.

Decided on one image, so that results and kernels are the same for every batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from waterline.algorithms import BLOCK_REGISTRY, REGISTRY, Algorithm
from waterline.algorithms.base import ACCURACIES
from waterline.errors import Refused
from waterline.machine import Machine
from waterline.planner.measurements import Timing
from waterline.planner.plan import Candidate
from waterline.spec import ConvSpec

NOT_ALLOWED = "the options do not allow it"
ONE_LAYER = "it computes several layers together, this one could not be joined with others"

# (algorithm, config) -> why it may not be used for want of memory, or "".
MemoryRule = Callable[[Algorithm, Any], str]


@dataclass(frozen=True)
class Choice:
    algorithm: Algorithm
    config: Any
    candidates: tuple[Candidate, ...]  # the chosen one first, then measured ones, then by cost, then the refused ones


@dataclass(frozen=True)
class Offer:
    """An algorithm with a config that may compute a layer; `seconds` is its cost for one image."""

    algorithm: Algorithm
    config: Any
    seconds: float
    measured_seconds: float | None = None

    @property
    def label(self) -> str:
        return self.algorithm.label(self.config)

    @property
    def candidate(self) -> Candidate:
        return Candidate(self.label, self.seconds, measured_seconds=self.measured_seconds, config=self.config)


def choose(
    spec: ConvSpec,
    machine: Machine,
    allowed: Sequence[str] = (),
    accuracy: str = "default",
    where: str = "a layer",
    *,
    timings: Sequence[Timing] = (),
    memory: MemoryRule | None = None,
) -> Choice:
    """The best of the `allowed` algorithms (names or name:variant; empty: all) under an accuracy policy.

    Args:
        timings: measured candidates of this layer. The fastest that may be used is taken; without any, the least cost.
        memory: refuses configs whose workspaces are too large.

    Raises:
        Refused: none of them serves the layer; the message gives each one's reason.
    """
    one = spec.with_batch(1)
    served: list[Offer] = []  # of each name:variant the first config that fits: configs come best first
    measured: list[Offer] = []
    refused = [Candidate(each.name, None, ONE_LAYER) for each in BLOCK_REGISTRY if each.name in allowed]
    for algorithm in REGISTRY:
        if reason := _refusal(algorithm, one, machine, allowed):
            refused.append(Candidate(algorithm.name, None, reason))
            continue
        settled: set[str] = set()
        for timing in timings:
            if timing.algorithm == algorithm.name and not _excluded(algorithm, timing.config, allowed, accuracy):
                if reason := memory(algorithm, timing.config) if memory else "":
                    refused.append(Candidate(timing.label, None, reason, config=timing.config))
                elif timing.seconds is not None:
                    cost = algorithm.cost(one, timing.config, machine).seconds
                    measured.append(Offer(algorithm, timing.config, cost, timing.seconds))
                    settled.add(timing.label)
        too_large: dict[str, Candidate] = {}
        for config in algorithm.configs(one, machine):
            label = algorithm.label(config)
            if label in settled:
                continue
            if reason := _excluded(algorithm, config, allowed, accuracy):
                refused.append(Candidate(label, None, reason))
                settled.add(label)
            elif reason := memory(algorithm, config) if memory else "":
                too_large.setdefault(label, Candidate(label, None, reason, config=config))
            else:
                served.append(Offer(algorithm, config, algorithm.cost(one, config, machine).seconds))
                settled.add(label)
        refused += [each for each in too_large.values() if each not in refused]
    offers = sorted(measured, key=lambda offer: offer.measured_seconds or 0.0)
    offers += sorted(served, key=lambda offer: offer.seconds)
    if not offers:
        reasons = "; ".join(f"{c.algorithm}: {c.refusal}" for c in refused if c.refusal != NOT_ALLOWED)
        hint = "allow more algorithms, or " + ("raise workspace_bytes" if memory else "leave the choice to the planner")
        raise Refused(f"{where} ({one.id}): {reasons}", hint)
    candidates = tuple(offer.candidate for offer in offers)
    refused = [candidate for candidate in refused if candidate.refusal != ONE_LAYER]
    return Choice(offers[0].algorithm, offers[0].config, candidates + tuple(refused))


def offers(spec: ConvSpec, machine: Machine, allowed: Sequence[str] = (), accuracy: str = "default") -> list[Offer]:
    """Every config that may compute one image of `spec`, by cost; empty where nothing serves it."""
    one = spec.with_batch(1)
    found = [
        Offer(algorithm, config, algorithm.cost(one, config, machine).seconds)
        for algorithm in REGISTRY
        if not _refusal(algorithm, one, machine, allowed)
        for config in dict.fromkeys(algorithm.configs(one, machine))
        if not _excluded(algorithm, config, allowed, accuracy)
    ]
    return sorted(found, key=lambda offer: offer.seconds)


def _refusal(algorithm: Algorithm, one: ConvSpec, machine: Machine, allowed: Sequence[str]) -> str:
    """Why an algorithm does not compute a layer in any of its variants, or ""."""
    if allowed and not any(name.partition(":")[0] == algorithm.name for name in allowed):
        return NOT_ALLOWED
    refusal = algorithm.refuse(one, machine)
    return "" if refusal is None else refusal.reason


def _excluded(algorithm: Algorithm, config: Any, allowed: Sequence[str], accuracy: str) -> str:
    """Why an option rules a config out, or "". A variant that is asked for by name needs no accuracy policy."""
    label = algorithm.label(config)
    if label in allowed and label != algorithm.name:
        return ""
    if allowed and algorithm.name not in allowed:
        return NOT_ALLOWED
    needed = algorithm.accuracy(config)
    if ACCURACIES.index(needed) > ACCURACIES.index(accuracy):
        return f"it needs accuracy {needed!r}, the option is {accuracy!r}"
    return ""
