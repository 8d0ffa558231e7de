"""Packed weights: made once for a layer, shared by all batch sizes of a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from waterline.algorithms import by_name
from waterline.algorithms.block_fusion.layers import stage_name
from waterline.codegen.cpu.memory import aligned_copy
from waterline.graph.ops import ConvTranspose
from waterline.machine import Machine
from waterline.planner import Step
from waterline.runtime.locks import RenewedLock
from waterline.spec import ConvSpec


class PackedWeights:
    """Arrays that algorithms make of a graph's constants, in aligned memory.

    Args:
        constants: the graph's, by name.
        releases: replaces each constant that is packed by a stand-in of the same shape without memory, so that a
            network is held once and not twice. Only for constants that can be read again.
    """

    def __init__(self, constants: dict[str, np.ndarray], machine: Machine, *, releases: bool = False) -> None:
        self._constants = constants
        self._machine = machine
        self._releases = releases
        self._released: set[str] = set()
        self._packed: dict[tuple[object, ...], dict[str, np.ndarray]] = {}
        self._relaid: dict[tuple[object, ...], np.ndarray] = {}
        self._lock = RenewedLock()

    def prepare(self, steps: Iterable[Step]) -> None:
        """Packs the weights of these steps, several at a time: NumPy releases the GIL for most of it."""
        steps = [layer for step in steps for layer in step.layers]
        missing = {self._key(step): step for step in steps if step.spec and self._key(step) not in self._packed}
        users = Counter(step.weight for step in missing.values())
        as_they_are = {storage.root for step in steps if step.spec is None for storage in step.inputs}

        def pack(step: Step) -> None:
            self.of(step)
            with self._lock:
                users[step.weight] -= 1
                if self._releases and not users[step.weight] and f"constant:{step.weight}" not in as_they_are:
                    shape = self._constants[step.weight].shape
                    self._constants[step.weight] = np.broadcast_to(np.float32(0), shape)
                    self._released.add(step.weight)

        with ThreadPoolExecutor(max(1, min(self._machine.cores, 8))) as pool:
            list(pool.map(pack, missing.values()))

    @property
    def has_released(self) -> bool:
        """Whether some constants are stand-ins now."""
        return bool(self._released)

    def serves(self, steps: Iterable[Step]) -> bool:
        """Whether the weights of these steps are packed, or can be."""
        layers = [layer for step in steps for layer in step.layers if layer.spec]
        return all(self._key(layer) in self._packed or layer.weight not in self._released for layer in layers)

    def of(self, step: Step) -> dict[str, np.ndarray]:
        """The packed weights and biases of a step: of a block those of its parts, named after their places."""
        if step.parts:
            found = {number: self.of(part) for number, part in enumerate(step.parts) if part.spec is not None}
            return {stage_name(i, name): array for i, arrays in found.items() for name, array in arrays.items()}
        spec = step.spec
        assert isinstance(spec, ConvSpec)
        key = self._key(step)
        if key not in self._packed:
            weight = convolution_weight(step, self._constants[step.weight])
            bias = self._constants[step.bias] if step.bias else None
            packed = by_name(step.algorithm).pack_weights(spec, step.config, weight, bias, self._machine)
            self._packed[key] = {name: aligned_copy(array) for name, array in packed.items()}
        return self._packed[key]

    def _key(self, step: Step) -> tuple[object, ...]:
        """Two layers may share a constant and read it differently: a tied autoencoder turns it round."""
        assert isinstance(step.spec, ConvSpec)
        return (step.weight, step.bias, step.algorithm, step.config, type(step.op).__name__, step.spec.groups)

    def constant(self, name: str) -> np.ndarray:
        """A constant that an operator reads as it is."""
        return self._once((name,), lambda: np.ascontiguousarray(self._constants[name], np.float32))

    def _once(self, key: tuple[object, ...], make: Callable[[], np.ndarray]) -> np.ndarray:
        if key not in self._relaid:
            self._relaid[key] = aligned_copy(make())
        return self._relaid[key]

    @property
    def bytes(self) -> int:
        arrays = [array for packed in self._packed.values() for array in packed.values()]
        return sum(array.nbytes for array in arrays) + sum(array.nbytes for array in self._relaid.values())


def convolution_weight(step: Step, weight: np.ndarray) -> np.ndarray:
    """The weight as (K, C/g, R, S), whatever the layer is."""
    spec = step.spec
    assert isinstance(spec, ConvSpec)
    if isinstance(step.op, ConvTranspose):
        # (C, K/g, R, S), to be turned round: the transposed convolution is a convolution with flipped filters.
        grouped = weight.reshape(spec.groups, spec.group_c, spec.group_k, spec.r, spec.s)
        weight = grouped.transpose(0, 2, 1, 3, 4)[..., ::-1, ::-1]
    return np.ascontiguousarray(weight).reshape(spec.k, spec.group_c, spec.r, spec.s)
