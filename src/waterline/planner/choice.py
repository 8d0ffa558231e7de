"""Which algorithm computes a layer: refusals, then costs, the least one wins. Decided on one image, so that results and
kernels are the same for every batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from waterline.algorithms import REGISTRY, Algorithm
from waterline.errors import Refused
from waterline.machine import Machine
from waterline.planner.plan import Candidate
from waterline.spec import ConvSpec


@dataclass(frozen=True)
class Choice:
    algorithm: Algorithm
    config: Any
    candidates: tuple[Candidate, ...]  # the chosen one first, then by cost, then the refused ones


def choose(spec: ConvSpec, machine: Machine, allowed: Sequence[str], where: str) -> Choice:
    """The best of the `allowed` algorithms (names in the registry; empty: all).

    Raises:
        Refused: none of them serves the layer; the message gives each one's reason.
    """
    one = spec.with_batch(1)
    served: list[tuple[float, Algorithm, Any]] = []
    refused: list[Candidate] = []
    for algorithm in REGISTRY:
        if allowed and algorithm.name not in allowed:
            refused.append(Candidate(algorithm.name, None, "the option algorithms does not allow it"))
            continue
        refusal = algorithm.refuse(one, machine)
        if refusal is not None:
            refused.append(Candidate(algorithm.name, None, refusal.reason))
            continue
        config = algorithm.configs(one, machine)[0]
        served.append((algorithm.cost(one, config, machine).seconds, algorithm, config))
    if not served:
        reasons = "; ".join(f"{c.algorithm}: {c.refusal}" for c in refused if c.algorithm in allowed)
        raise Refused(f"{where} ({one.id}): {reasons}", "allow more algorithms, or leave the choice to the planner")
    served.sort(key=lambda entry: entry[0])
    candidates = tuple(Candidate(algorithm.name, seconds) for seconds, algorithm, _ in served)
    _, best, config = served[0]
    return Choice(best, config, candidates + tuple(refused))
