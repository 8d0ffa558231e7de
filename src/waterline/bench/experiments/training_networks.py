"""The networks of the comparison: pairs of a ConvFirst and a ConvNeXt, small ones to train and the zoo's to time.

PyTorch is imported where a network is made, and nowhere else: `waterline experiment` is listed without it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from waterline.bench.experiments.efficiency_network import parameters
from waterline.bench.workload import Workload, flops
from waterline.errors import InvalidArgument

IMAGE_SIZE = 32  # of the digits, enlarged from 8x8: with patches of 4x4 each of their pixels is seen by two patches
CLASSES = 10
MOST_DIFFERENCE = 0.03  # of the parameters of a pair that is trained


@dataclass(frozen=True)
class Contestant:
    """A network that is trained.

    Attributes:
        name: of its records. family: as `waterline.train.build_model` names it. sizes: what else that takes.
    """

    name: str
    family: str
    sizes: dict[str, Any] = field(hash=False)

    def build(self, seed: int, drop_path: float = 0.0) -> Any:
        """The `torch.nn.Module` with random weights: images (n, 3, 32, 32) -> scores (n, 10).

        Raises:
            InvalidArgument: PyTorch or torchvision is not installed.
        """
        from waterline import train

        return train.build_model(self.family, CLASSES, drop_path_rate=drop_path, seed=seed, **self.sizes)

    def export(self, folder: Path) -> Workload:
        """As an ONNX file to be timed, with random weights, none of which is zero.

        A new ConvFirst block adds zero to its input, and a new ConvNeXt block a millionth: an engine that computes a
        block wrongly would not be noticed. So all scales are drawn anew.
        """
        from waterline.train.randomness import seeded
        from waterline.train.saving import write_onnx

        model = self.build(seed=0)
        with seeded(0):
            for parameter in model.parameters():
                if sum(length > 1 for length in parameter.shape) <= 1:  # norms, biases and scales of layers
                    parameter.data.uniform_(0.5, 1.5)
        path = folder / f"{self.name}.onnx"
        write_onnx(path, model, IMAGE_SIZE)
        return Workload.named(str(path))


# Equal depths and patches, and parameters equal within MOST_DIFFERENCE. The widths of ConvNeXt are those that vectors
# like best, powers of two; ConvFirst's were chosen to have as many parameters.
SMALL = (
    Contestant("convfirst_digits", "convfirst", {"depths": (1, 1, 2), "widths": (40, 80, 160), "head_width": 128}),
    Contestant("convnext_digits", "convnext", {"depths": (1, 1, 2), "widths": (32, 64, 128)}),
)
# The networks that each latency comparison is of, ConvFirst first: name of the pair -> names of the networks.
PAIRS = {"digits": tuple(each.name for each in SMALL), "tiny": ("convfirst_tiny", "convnext_tiny")}


def check_pairs(names: list[str]) -> list[str]:
    """The names, if there are such pairs.

    Raises:
        InvalidArgument: there is none of a name.
    """
    for name in names:
        if name not in PAIRS:
            raise InvalidArgument(f"there is no pair of networks {name!r}", f"pairs are {', '.join(PAIRS)}")
    return names


def contestants(names: list[str] | None = None) -> list[Contestant]:
    """Those of the names, all if none are given.

    Raises:
        InvalidArgument: a name that is not one of the networks that are trained.
    """
    known = {each.name: each for each in SMALL}
    for name in names or ():
        if name not in known:
            raise InvalidArgument(f"{name!r} is not trained here", f"networks are {', '.join(known)}")
    return [known[name] for name in names or known]


def workload_of(name: str, folder: Path, image_size: int | None = None) -> Workload:
    """A network of a pair, ready to be timed. folder: for a file. image_size: of the zoo's networks; None: 224."""
    known = {each.name: each for each in SMALL}
    return known[name].export(folder) if name in known else Workload.named(name, image_size)


def parameter_count(model: Any) -> int:
    """Of a `torch.nn.Module`: numbers that training learns."""
    return sum(each.numel() for each in model.parameters())


def size_of(name: str, workload: Workload) -> tuple[int, int]:
    """Parameters that training learns, and multiply-adds of one image.

    An exported file has its normalisations folded away, so the module is asked for its parameters.
    """
    graph = workload.graph(1)
    known = {each.name: each for each in SMALL}
    count = parameter_count(known[name].build(seed=0)) if name in known else parameters(graph)
    return count, flops(graph) // 2
