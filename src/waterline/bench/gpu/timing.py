"""Times of several variants on a GPU: in rounds, each variant once a round in an order of its own.

*Warm*: calls one after the other in one CUDA graph; what fits the second-level cache is there. *Cold*: one call in a
graph, after a buffer larger than that cache has been written. Before either the stream is kept busy, so that the
processor has asked for everything when the first event is reached.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping

import torch

from waterline.bench.gpu.cases import Call, Times
from waterline.bench.gpu.place import Place
from waterline.runtime.gpu.timing import Repeated

ROUNDS, LEAST_ROUNDS = 9, 3
LONGEST_S = 8.0  # of all rounds of a case, but for the least
TURN_S = 4e-3  # of one warm turn: calls that are shorter are repeated in their graph
MOST_CALLS = 20  # in one graph
FLUSHED = 4  # times the second-level cache
BUSY_CYCLES = 1_000_000  # half a millisecond


class Turns:
    """The graphs of one variant."""

    def __init__(self, call: Call, place: Place) -> None:
        device = place.torch_device
        self._one = Repeated(call, 1, device)
        self._one.seconds()  # what is uploaded first is not measured
        self.warm_calls = max(1, min(MOST_CALLS, int(TURN_S / max(self._one.seconds(), 1e-9))))
        self._many = self._one if self.warm_calls == 1 else Repeated(call, self.warm_calls, device)

    def warm(self) -> float:
        return self._many.seconds()

    def cold(self) -> float:
        return self._one.seconds()


def timed(
    turns: Mapping[str, Turns], place: Place, seed: int, now: Callable[[], float] = time.monotonic
) -> dict[str, Times]:
    """Of each variant."""
    found = {name: Times(each.warm_calls) for name, each in turns.items()}
    flushed = torch.empty(FLUSHED * place.gpu.l2_bytes, dtype=torch.int8, device=place.torch_device)
    order, end = random.Random(seed), now() + LONGEST_S
    for done in range(ROUNDS):
        if done >= LEAST_ROUNDS and now() > end:
            break
        names = list(turns)
        order.shuffle(names)
        for name in names:
            keep_busy(place)
            found[name].warm.append(turns[name].warm())
            keep_busy(place)
            flushed.zero_()
            found[name].cold.append(turns[name].cold())
    return found


def keep_busy(place: Place) -> None:
    """For half a millisecond, without touching memory."""
    if not place.is_interpreted:
        torch.cuda._sleep(BUSY_CYCLES)


__all__ = ["LEAST_ROUNDS", "ROUNDS", "Turns", "keep_busy", "timed"]
