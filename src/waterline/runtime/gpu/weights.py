"""Packed weights on a GPU: made once for a layer and a config, shared by all batch sizes of a network.

Batches of different sizes often have different configs, and many configs read weights that are packed alike: what has
the same elements is kept once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch

from waterline.algorithms.gpu import BIAS
from waterline.graph.block import BlockSpec
from waterline.planner import Step
from waterline.planner.gpu import GpuTarget, algorithm_of, block_algorithm
from waterline.runtime.locks import RenewedLock
from waterline.runtime.weights import convolution_weight
from waterline.spec import ConvSpec


class GpuWeights:
    """Tensors that algorithms make of a graph's constants, which stay on the host as they are.

    Args:
        constants: the graph's, by name, f32.
    """

    def __init__(self, constants: Mapping[str, np.ndarray], target: GpuTarget, device: torch.device) -> None:
        self._constants = constants
        self._target = target
        self._device = device
        self._packed: dict[tuple[object, ...], dict[str, torch.Tensor]] = {}
        self._kept: dict[tuple[object, ...], list[torch.Tensor]] = {}  # layers and a name -> all that differ
        self._plain: dict[str, torch.Tensor] = {}
        self._lock = RenewedLock()

    has_released = False

    def serves(self, steps: Iterable[Step]) -> bool:
        """Any steps: no constant is let go."""
        return True

    def of(self, step: Step) -> dict[str, torch.Tensor]:
        """The packed weights, and the biases in f32, of a convolution or a block, by the names of its launches."""
        key = self._key(step)
        with self._lock:
            if key not in self._packed:
                made = self._block(step) if step.parts else self._layer(step)
                self._packed[key] = {name: self._shared((*_layers(step), name), each) for name, each in made.items()}
            return self._packed[key]

    def _shared(self, key: tuple[object, ...], tensor: torch.Tensor) -> torch.Tensor:
        """The tensor, or one with the same elements that was made before."""
        kept = self._kept.setdefault(key, [])
        for each in kept:
            if each.dtype == tensor.dtype and torch.equal(each, tensor) and each.stride() == tensor.stride():
                return each
        kept.append(tensor)
        return tensor

    def constant(self, name: str) -> torch.Tensor:
        """A constant that an operator reads as it is, in f32."""
        with self._lock:
            return self._plain_of(name)

    def _layer(self, step: Step) -> dict[str, torch.Tensor]:
        assert isinstance(step.spec, ConvSpec)
        algorithm = algorithm_of(step.algorithm)
        packed = algorithm.pack(step.spec, step.config, self._weight(step), self._target.precision)
        return packed | ({BIAS: self._plain_of(step.bias)} if step.bias else {})

    def _block(self, step: Step) -> dict[str, torch.Tensor]:
        assert isinstance(step.spec, BlockSpec)
        weights = [None if part.spec is None else self._weight(part) for part in step.parts]
        algorithm = block_algorithm(step.algorithm)
        packed: dict[str, torch.Tensor] = algorithm.pack(step.spec, step.config, weights, self._target.precision)
        biases = {f"bias{i}": self._plain_of(part.bias) for i, part in enumerate(step.parts) if part.bias}
        return packed | biases

    def _weight(self, step: Step) -> torch.Tensor:
        """(K, C/g, R, S) in f32."""
        return self._moved(convolution_weight(step, self._constants[step.weight]))

    def _plain_of(self, name: str) -> torch.Tensor:
        if name not in self._plain:
            self._plain[name] = self._moved(self._constants[name])
        return self._plain[name]

    def _moved(self, array: np.ndarray) -> torch.Tensor:
        # A copy also where the device is the CPU: a constant may be memory that cannot be written to.
        return torch.tensor(np.ascontiguousarray(array, np.float32), device=self._device)

    def _key(self, step: Step) -> tuple[object, ...]:
        assert step.spec is not None
        # What is packed depends on sizes of images in rare algorithms, and never on the batch.
        return (step.algorithm, step.config, step.spec.with_batch(1), *_layers(step))


def _layers(step: Step) -> list[tuple[object, ...]]:
    """Two layers may share a constant and read it differently: a tied autoencoder turns it round."""
    return [
        (part.weight, part.bias, type(part.op).__name__, part.spec.groups if isinstance(part.spec, ConvSpec) else 0)
        for part in step.layers
    ]


__all__ = ["GpuWeights"]
