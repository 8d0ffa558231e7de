"""Measured times of candidates, as a table that the planner is given. It measures nothing itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from waterline.spec import ConvSpec


@dataclass(frozen=True)
class Timing:
    """A candidate of a layer: its name:variant, its config, and its time; None where it could not be run."""

    label: str
    config: Any
    seconds: float | None

    @property
    def algorithm(self) -> str:
        return self.label.partition(":")[0]


@dataclass(frozen=True)
class Measurements:
    """Layer -> timings of its candidates. A layer is there with all that were worth measuring, or not at all."""

    layers: Mapping[str, tuple[Timing, ...]] = field(default_factory=dict)

    def of(self, spec: ConvSpec, allowed: Sequence[str], accuracy: str, batch: int = 1) -> tuple[Timing, ...]:
        return self.layers.get(layer_key(spec, allowed, accuracy, batch), ())


def layer_key(spec: ConvSpec, allowed: Sequence[str] = (), accuracy: str = "default", batch: int = 1) -> str:
    """What a tuned choice belongs to: the layer with its epilogue, and the options that limit the choice.

    Not the number of threads, and on a CPU not the batch, so that results do not depend on them: `batch` is the number
    of images that the target decides on.
    """
    names = ",".join(sorted(set(allowed))) or "all"
    return f"{spec.with_batch(batch).id} epilogue={spec.epilogue} algorithms={names} accuracy={accuracy}"
