"""Layer lists: text files with one `ConvSpec` id a line, shared by tests, benchmarks and plots.

`python -m waterline.bench.layers FOLDER` writes the networks' lists anew from the zoo.
"""

from __future__ import annotations

import sys
from pathlib import Path

from waterline import models
from waterline.errors import InvalidArgument
from waterline.spec import ConvSpec

# The networks of the papers and of the product's own table.
NETWORKS = (
    "resnet18",
    "resnet50",
    "vgg16",
    "vgg19",
    "alexnet",
    "overfeat",
    "squeezenet1_0",
    "mobilenet_v2",
    "efficientnet_b0",
    "convnext_tiny",
    "convfirst_tiny",
)


def read(path: Path) -> list[ConvSpec]:
    """The layers of a file; empty lines and what follows a `#` do not count.

    Raises:
        InvalidArgument: a line is no id (with its number), or there is none.
    """
    specs = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        text = line.split("#", 1)[0].strip()
        if text:
            try:
                specs.append(ConvSpec.parse(text))
            except InvalidArgument as error:
                raise InvalidArgument(f"{path}:{number}: {error.message}", error.hint) from error
    if not specs:
        raise InvalidArgument(f"{path} lists no layers", "write one id a line")
    return specs


def distinct(network: str) -> list[ConvSpec]:
    """The convolutions of a network of the zoo for one image, each once, in the order of first use."""
    return list(dict.fromkeys(spec for _, spec in models.convolutions(network)))


def text_of(network: str) -> str:
    """The file's content for one network."""
    size = models.default_image_size(network)
    specs = distinct(network)
    lines = [f"# {network} at {size}x{size}: its {len(specs)} different convolutions in the order of first use."]
    return "\n".join([*lines, *(spec.id for spec in specs)]) + "\n"


if __name__ == "__main__":
    for name in NETWORKS:
        (Path(sys.argv[1]) / f"{name}.txt").write_text(text_of(name), encoding="utf-8")
