"""Which algorithm computes a layer: refusals, then measured times where there are some, else costs; the least wins.

On a CPU decided on one image, so that results and kernels are the same for every batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from waterline.algorithms.base import ACCURACIES
from waterline.errors import Refused
from waterline.machine import Machine
from waterline.planner.measurements import Timing
from waterline.planner.plan import Candidate
from waterline.planner.target import Target, target_of
from waterline.spec import ConvSpec

NOT_ALLOWED = "the options do not allow it"
ONE_LAYER = "it computes several layers together, this one could not be joined with others"

# (algorithm, config) -> why it may not be used for want of memory, or "".
MemoryRule = Callable[[Any, Any], str]


@dataclass(frozen=True)
class Choice:
    algorithm: Any  # an `Algorithm`, or what is one on another target
    config: Any
    candidates: tuple[Candidate, ...]  # the chosen one first, then measured ones, then by cost, then the refused ones


@dataclass(frozen=True)
class Offer:
    """An algorithm with a config that may compute a layer; `seconds` is its cost for one image."""

    algorithm: Any
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
    machine: Machine | Target,
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
    target = target_of(machine)
    one = target.decided(spec)
    served: list[Offer] = []  # of each name:variant the first config that fits: configs come best first
    measured: list[Offer] = []
    refused = [Candidate(name, None, ONE_LAYER) for name in target.block_names if name in allowed]
    for algorithm in target.registry:
        if reason := _refusal(algorithm, one, target, allowed):
            refused.append(Candidate(algorithm.name, None, reason))
            continue
        settled: set[str] = set()
        for timing in timings:
            if _is_of(timing, algorithm) and not _excluded(algorithm, timing.config, target, allowed, accuracy):
                if reason := memory(algorithm, timing.config) if memory else "":
                    refused.append(Candidate(timing.label, None, reason, config=timing.config))
                elif timing.seconds is not None:
                    cost = _seconds(algorithm, one, timing.config, target)
                    measured.append(Offer(algorithm, timing.config, cost, timing.seconds))
                    settled.add(timing.label)
        too_large: dict[str, Candidate] = {}
        for config in algorithm.configs(one, *target.where):
            label = algorithm.label(config)
            if label in settled:
                continue
            if reason := _excluded(algorithm, config, target, allowed, accuracy):
                refused.append(Candidate(label, None, reason))
                settled.add(label)
            elif reason := memory(algorithm, config) if memory else "":
                too_large.setdefault(label, Candidate(label, None, reason, config=config))
            else:
                served.append(Offer(algorithm, config, _seconds(algorithm, one, config, target)))
                settled.add(label)
        refused += [each for each in too_large.values() if each not in refused]
    offers = sorted(measured, key=lambda offer: offer.measured_seconds or 0.0)
    offers += sorted(served, key=_order)
    if not offers:
        reasons = "; ".join(f"{c.algorithm}: {c.refusal}" for c in refused if c.refusal != NOT_ALLOWED)
        hint = "allow more algorithms, or " + ("raise workspace_bytes" if memory else "leave the choice to the planner")
        raise Refused(f"{where} ({one.id}): {reasons}", hint)
    candidates = tuple(offer.candidate for offer in offers)
    refused = [candidate for candidate in refused if candidate.refusal != ONE_LAYER]
    return Choice(offers[0].algorithm, offers[0].config, candidates + tuple(refused))


def offers(
    spec: ConvSpec, machine: Machine | Target, allowed: Sequence[str] = (), accuracy: str = "default"
) -> list[Offer]:
    """Every config that may compute one image of `spec`, by cost; empty where nothing serves it."""
    target = target_of(machine)
    one = target.decided(spec)
    found = [
        Offer(algorithm, config, _seconds(algorithm, one, config, target))
        for algorithm in target.registry
        if not _refusal(algorithm, one, target, allowed)
        for config in dict.fromkeys(algorithm.configs(one, *target.where))
        if not _excluded(algorithm, config, target, allowed, accuracy)
    ]
    return sorted(found, key=_order)


def _order(offer: Offer) -> tuple[bool, float]:
    return offer.algorithm.is_last_resort, offer.seconds


def _seconds(algorithm: Any, spec: ConvSpec, config: Any, target: Target) -> float:
    """The cost of one image."""
    return float(algorithm.cost(spec, config, *target.where).seconds) / max(spec.n, 1)


def _is_of(timing: Timing, algorithm: Any) -> bool:
    """Whether it is a time of this algorithm; some targets have variants as algorithms of their own."""
    return algorithm.name in (timing.label, timing.algorithm)


def _refusal(algorithm: Any, spec: ConvSpec, target: Target, allowed: Sequence[str]) -> str:
    """Why an algorithm does not compute a layer in any of its variants, or ""."""
    own = algorithm.name.partition(":")[0]
    if allowed and not any(name in (own, algorithm.name) or name.startswith(f"{own}:") for name in allowed):
        return NOT_ALLOWED
    refusal = algorithm.refuse(spec, *target.where)
    return "" if refusal is None else str(refusal.reason)


def _excluded(algorithm: Any, config: Any, target: Target, allowed: Sequence[str], accuracy: str) -> str:
    """Why an option rules a config out, or "". A variant that is asked for by name needs no accuracy policy."""
    label = algorithm.label(config)
    own = algorithm.name.partition(":")[0]
    if label in allowed and label != own:
        return ""
    if allowed and own not in allowed:
        return NOT_ALLOWED
    needed = target.accuracy(algorithm, config)
    if ACCURACIES.index(needed) > ACCURACIES.index(accuracy):
        return f"it needs accuracy {needed!r}, the option is {accuracy!r}"
    return ""
