"""Which algorithm computes a layer: refusals, then costs, the least one wins. Decided on one image, so that results and
kernels are the same for every batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from waterline.algorithms import REGISTRY, Algorithm
from waterline.algorithms.base import ACCURACIES
from waterline.errors import Refused
from waterline.machine import Machine
from waterline.planner.plan import Candidate
from waterline.spec import ConvSpec


@dataclass(frozen=True)
class Choice:
    algorithm: Algorithm
    config: Any
    candidates: tuple[Candidate, ...]  # the chosen one first, then by cost, then the refused ones


def choose(
    spec: ConvSpec, machine: Machine, allowed: Sequence[str] = (), accuracy: str = "default", where: str = "a layer"
) -> Choice:
    """The best of the `allowed` algorithms (names or name:variant; empty: all) under an accuracy policy.

    Raises:
        Refused: none of them serves the layer; the message gives each one's reason.
    """
    one = spec.with_batch(1)
    served: dict[str, tuple[float, Algorithm, Any]] = {}
    refused: list[Candidate] = []
    for algorithm in REGISTRY:
        if allowed and not any(name.partition(":")[0] == algorithm.name for name in allowed):
            refused.append(Candidate(algorithm.name, None, "the option algorithms does not allow it"))
            continue
        refusal = algorithm.refuse(one, machine)
        if refusal is not None:
            refused.append(Candidate(algorithm.name, None, refusal.reason))
            continue
        for config in algorithm.configs(one, machine):
            label = algorithm.label(config)
            if label in served or any(candidate.algorithm == label for candidate in refused):
                continue  # configs come best first
            reason = _excluded(algorithm, config, allowed, accuracy)
            if reason:
                refused.append(Candidate(label, None, reason))
            else:
                served[label] = (algorithm.cost(one, config, machine).seconds, algorithm, config)
    if not served:
        reasons = "; ".join(f"{c.algorithm}: {c.refusal}" for c in refused if "does not allow" not in c.refusal)
        raise Refused(f"{where} ({one.id}): {reasons}", "allow more algorithms, or leave the choice to the planner")
    ranked = sorted(served.items(), key=lambda entry: entry[1][0])
    candidates = tuple(Candidate(label, seconds) for label, (seconds, _, _) in ranked)
    _, best, config = ranked[0][1]
    return Choice(best, config, candidates + tuple(refused))


def _excluded(algorithm: Algorithm, config: Any, allowed: Sequence[str], accuracy: str) -> str:
    """Why an option rules a config out, or "". A variant that is asked for by name needs no accuracy policy."""
    label = algorithm.label(config)
    if label in allowed and label != algorithm.name:
        return ""
    if allowed and algorithm.name not in allowed:
        return "the option algorithms does not allow it"
    needed = algorithm.accuracy(config)
    if ACCURACIES.index(needed) > ACCURACIES.index(accuracy):
        return f"it needs accuracy {needed!r}, the option is {accuracy!r}"
    return ""
