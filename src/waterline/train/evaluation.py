"""Accuracy on the validation images: in PyTorch while training, and of the trained network in Waterline beside it."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn

from waterline.api import compile as compile_network
from waterline.train.batches import ValidationBatches
from waterline.train.datasets import Data
from waterline.train.distributed import Process

BATCH_SIZE = 64


def evaluate(model: nn.Module, batches: ValidationBatches, process: Process, precision: torch.dtype) -> float:
    """Share of the validation images whose class is found, over all processes' images, in [0, 1]."""
    was_training = model.training
    model.eval()
    process.share_buffers(model)
    right = count = 0
    with torch.inference_mode(), autocast(process.device, precision):
        for images, labels in batches:
            scores = model(images.to(process.device, non_blocking=True))
            right += int((scores.argmax(1) == labels.to(process.device)).sum())
            count += len(labels)
    model.train(was_training)
    all_right, all_count = process.sum([right, count])
    return all_right / all_count


def autocast(device: torch.device, precision: torch.dtype) -> torch.autocast:
    is_mixed = precision != torch.float32
    return torch.autocast(device.type, dtype=precision if is_mixed else torch.bfloat16, enabled=is_mixed)


@dataclass(frozen=True)
class Verification:
    """The trained network in PyTorch and in Waterline, in float32 on the same validation images.

    Attributes:
        images: how many. pytorch_right, waterline_right: whose class each finds. differing: whose class differs.
        largest_difference: of any score. largest_score: in absolute value, of PyTorch's.
    """

    images: int
    pytorch_right: int
    waterline_right: int
    differing: int
    largest_difference: float
    largest_score: float

    @property
    def pytorch_accuracy(self) -> float:
        return self.pytorch_right / self.images

    @property
    def waterline_accuracy(self) -> float:
        return self.waterline_right / self.images


def verify(model: nn.Module, data: Data, num_threads: int | None = None) -> Verification:
    """Compile a trained network, and compare both on all validation images. The model stays as it is.

    Raises:
        waterline.UnsupportedOperator: the network has an operation that Waterline does not have.
    """
    module = copy.deepcopy(model).to("cpu", torch.float32).eval()
    example = torch.zeros(1, 3, data.image_size, data.image_size)
    net = compile_network(module, example, num_threads=num_threads)
    right = [0, 0]
    images = differing = 0
    difference = score = 0.0
    with torch.inference_mode():
        for x, labels in ValidationBatches(data, BATCH_SIZE, Process(0, 1, torch.device("cpu"))):
            expected = module(x)
            found = torch.as_tensor(net(x.numpy()))
            classes = expected.argmax(1), found.argmax(1)
            right = [before + int((each == labels).sum()) for before, each in zip(right, classes, strict=True)]
            differing += int((classes[0] != classes[1]).sum())
            difference = max(difference, float((expected - found).abs().max()))
            score = max(score, float(expected.abs().max()))
            images += len(labels)
    return Verification(images, right[0], right[1], differing, difference, score)
