"""Tuning on a GPU: candidates of a layer take turns, each alone in a CUDA graph, on data that are in the second-level
cache as far as they fit it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from waterline.algorithms.gpu import BIAS, RESIDUAL, TORCH_TYPES, X, Y
from waterline.codegen.gpu.kernel import KERNEL_ERRORS, triton_version
from waterline.errors import Refused
from waterline.planner.choice import Offer
from waterline.planner.gpu import GpuTarget, algorithm_of, names
from waterline.runtime.gpu.device import Device
from waterline.runtime.gpu.timing import Repeated
from waterline.spec import ConvSpec

REPEATS = 20  # of a candidate in its graph


class GpuTrial:
    """Candidates of one layer, ready to be run in turns; with `like` those of a trial of more of them.

    Raises:
        Refused: a kernel cannot be compiled, or there is no memory for it.
    """

    def __init__(
        self, spec: ConvSpec, offers: Sequence[Offer], target: GpuTarget, device: Device, like: GpuTrial | None = None
    ) -> None:
        self._tensors: dict[str, torch.Tensor] = (
            _tensors(spec, target.precision, device.torch_device) if like is None else like._tensors
        )
        self._runs: dict[Offer, Repeated] = {} if like is None else like._runs
        self._offers = tuple(offers)
        for offer in offers:
            if offer not in self._runs:
                try:
                    self._runs[offer] = self._repeated(spec, offer, target, device)
                except KERNEL_ERRORS as error:
                    raise Refused(f"{offer.label} with {offer.config}: {error}") from error

    def _repeated(self, spec: ConvSpec, offer: Offer, target: GpuTarget, device: Device) -> Repeated:
        precision = target.precision
        made = offer.algorithm.implement(spec, offer.config, *target.where)
        tensors = self._tensors | offer.algorithm.pack(spec, offer.config, self._tensors["oihw"], precision)
        for each in made.workspaces:
            dtype = TORCH_TYPES[each.precision or precision]
            tensors[each.name] = torch.empty(each.elems, dtype=dtype, device=device.torch_device)

        def call() -> None:
            for launch in made.launches:
                launch.run(tensors)

        return Repeated(call, REPEATS, device.torch_device)

    def run(self, threads: int) -> np.ndarray:
        """One turn of each candidate: seconds of each."""
        return np.array([self._runs[offer].seconds() for offer in self._offers])


def _tensors(spec: ConvSpec, precision: str, device: torch.device) -> dict[str, torch.Tensor]:
    """Normally distributed, the same for everybody."""
    generator = torch.Generator(device).manual_seed(0)
    dtype = TORCH_TYPES[precision]

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    image, result = (spec.n, spec.h, spec.w, spec.c), (spec.n, spec.p, spec.q, spec.k)
    found = {
        X: drawn(*image).to(dtype),
        Y: torch.empty(result, dtype=dtype, device=device),
        "oihw": drawn(spec.k, spec.group_c, spec.r, spec.s),
    }
    if spec.epilogue.bias:
        found[BIAS] = drawn(spec.k)
    if spec.epilogue.residual:
        found[RESIDUAL] = drawn(*result).to(dtype)
    return found


def fingerprint(target: GpuTarget, version: str) -> str:
    """What measurements depend on, and what they may choose from."""
    identity = {
        "waterline": version,
        "algorithms": list(names()),
        "gpu": [target.gpu.name, list(target.gpu.capability), target.gpu.multiprocessors],
        "software": [torch.__version__, triton_version()],
    }
    return hashlib.blake2b(json.dumps(identity).encode(), digest_size=12).hexdigest()


def label(name: str, config: Any) -> str:
    """Of an algorithm with a config; raises KeyError where there is no such algorithm."""
    if name not in names():
        raise KeyError(name)
    return algorithm_of(name).label(config)


__all__ = ["GpuTrial", "fingerprint", "label"]
