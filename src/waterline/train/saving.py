"""The trained network in a file: weights with what is needed to make the network again, or an ONNX model."""

from __future__ import annotations

import copy
import os
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from waterline.errors import InvalidArgument, InvalidModel
from waterline.train.architecture import CHANNELS, Architecture
from waterline.train.batches import DEVIATION, MEAN
from waterline.train.datasets import Data


def save_model(path: str | Path, model: nn.Module, architecture: Architecture, data: Data) -> None:
    """Weights, the network's shape, its classes, and how its images are made: for `load_model`, or `torch.load`.

    The file is whole or as it was before.
    """
    state = {
        "architecture": architecture.to_dict(),
        "classes": list(data.classes),
        "image_size": data.image_size,
        "mean": list(MEAN),
        "deviation": list(DEVIATION),
        "weights": {name: each.cpu() for name, each in model.state_dict().items()},
    }
    temporary = Path(f"{path}.tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def load_model(path: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """The network of `save_model` in evaluation mode, and what else the file says (classes, image_size, mean, ...).

    Raises:
        InvalidArgument: no such file. InvalidModel: not one that `waterline train` has written.
    """
    if not Path(path).is_file():
        raise InvalidArgument(f"there is no file {str(path)!r}", "give the model.pt of `waterline train`")
    wrong = InvalidModel(f"{path} is no network of `waterline train`", "give the model.pt that it has written")
    if not zipfile.is_zipfile(path):
        raise wrong
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        model = Architecture.from_dict(state.pop("architecture")).build(len(state["classes"]))
        model.load_state_dict(state.pop("weights"))
    except (RuntimeError, KeyError, TypeError, AttributeError, pickle.UnpicklingError) as error:
        raise wrong from error
    return model.eval(), state


def write_onnx(path: str | Path, model: nn.Module, image_size: int) -> None:
    """An ONNX model: input `input` (N, 3, image_size, image_size), output `output` (N, classes).

    By PyTorch's exporter of TorchScript, which needs no further package.
    """
    example = torch.zeros(1, CHANNELS, image_size, image_size)
    module = copy.deepcopy(model).to("cpu", torch.float32).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # in favour of an exporter that needs more packages
        torch.onnx.export(
            module,
            (example,),
            str(path),
            dynamo=False,
            input_names=["input"],
            output_names=["output"],
            dynamic_axes={"input": {0: "N"}, "output": {0: "N"}},
        )
