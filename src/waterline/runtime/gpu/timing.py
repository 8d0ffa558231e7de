"""Times on a GPU: calls recorded in a CUDA graph and replayed between two events, so that no launch is waited for."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

Call = Callable[[], None]
WARM_UPS = 3  # runs before a recording: kernels are compiled and libraries choose in them


class Repeated:
    """A call, so many times one after the other in one CUDA graph. On the CPU, in Triton's interpreter, it is made once
    and timed by the clock, which says nothing of a GPU."""

    def __init__(self, call: Call, times: int, device: torch.device) -> None:
        self._call = call
        self._times = times
        self._device = device
        self._graph = record(call, times, device) if device.type == "cuda" else None

    def seconds(self) -> float:
        """Of one call."""
        if self._graph is None:
            begin = time.perf_counter()
            self._call()
            return time.perf_counter() - begin
        with torch.cuda.device(self._device):
            return elapsed_seconds(self._graph.replay) / self._times


def record(call: Call, times: int, device: torch.device) -> torch.cuda.CUDAGraph:
    """The CUDA graph of so many calls."""
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                call()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may ask for memory meanwhile
            for _ in range(times):
                call()
        return graph


def elapsed_seconds(work: Call) -> float:
    """Between the ends of what was asked for before and of `work`, on the current stream of the current device."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    work()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3


__all__ = ["Call", "Repeated", "elapsed_seconds", "record"]
