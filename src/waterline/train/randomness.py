"""Random numbers that follow from what they are for, and the state of those that do not.

The order of the images, their augmentation and the mixing of a batch follow from (seed, epoch, position) alone, so they
are the same with any number of loading processes and after any interruption. What the model draws itself (stochastic
depth) comes from PyTorch's generators, whose state is part of a checkpoint.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

State = dict[str, Any]


@contextmanager
def seeded(*parts: int) -> Iterator[None]:
    """Seed PyTorch's (CPU), NumPy's and Python's generators by whole numbers, and put them back afterwards."""
    before = state(None)
    seed = int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])
    torch.default_generator.manual_seed(seed & (2**63 - 1))
    np.random.seed(seed & 0xFFFFFFFF)
    random.seed(seed)
    try:
        yield
    finally:
        restore(before, None)


def state(device: torch.device | None) -> State:
    """Of all generators of this process; plain values and tensors, so that it may be stored. device: a GPU's too."""
    numbers: Any = np.random.get_state()  # its type allows for other generators than its own
    kind, keys, position, has_gauss, gauss = numbers
    return {
        "torch": torch.default_generator.get_state(),
        "cuda": torch.cuda.get_rng_state(device) if device is not None and device.type == "cuda" else None,
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss],
        "python": random.getstate(),
    }


def restore(saved: State, device: torch.device | None) -> None:
    """The inverse of `state`."""
    torch.default_generator.set_state(saved["torch"])
    if saved["cuda"] is not None and device is not None and device.type == "cuda":
        torch.cuda.set_rng_state(saved["cuda"], device)
    kind, keys, *others = saved["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *others))
    random.setstate(saved["python"])
