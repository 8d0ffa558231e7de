"""The one door to torchvision: everything of `waterline.train` that needs it asks here.

A torchvision whose binary part was made for another build of PyTorch (one with CUDA, beside a PyTorch without) does not
import: its Python part describes two operators that the binary would have defined. Training uses neither of them. They
are declared, without a kernel, and the import is tried once more.
"""

from __future__ import annotations

import importlib
import sys
from functools import cache
from types import ModuleType

import torch

from waterline.errors import InvalidArgument

_OPERATORS = ("nms", "qnms")
_HINT = "pip install 'waterline[train]', and torchvision as docs/training.md says"
_declared: list[torch.library.Library] = []  # a declaration lasts as long as its library


@cache
def module(name: str) -> ModuleType:
    """`torchvision` or one of its modules: "torchvision.datasets".

    Raises:
        InvalidArgument: it is not installed, or does not fit to PyTorch.
    """
    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError as error:
        if error.name != "torchvision":
            raise
        raise InvalidArgument("training needs torchvision, which is not installed", _HINT) from error
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise InvalidArgument(f"torchvision does not fit to PyTorch {torch.__version__}: {error}", _HINT) from error
        _declare()
    return importlib.import_module(name)


def _declare() -> None:
    """Declare the operators of the part that did not load, and forget the half import."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in _OPERATORS:
        if not hasattr(torch.ops.torchvision, operator):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.append(library)
    for loaded in [each for each in sys.modules if each.partition(".")[0] == "torchvision"]:
        del sys.modules[loaded]
