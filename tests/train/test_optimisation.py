"""What is optimised how: decay, the course of the learning rate, the average of the weights, precision."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from waterline import train
from waterline.errors import InvalidArgument
from waterline.train.optimisation import build_average, build_optimizer, build_schedule, resolve_precision


@pytest.mark.parametrize("name", ["convfirst", "convnext"])
def test_norms_and_biases_do_not_decay(recipe: train.Recipe, name: str) -> None:
    model = train.build_model(name, 10, depths=(1, 1), widths=(8, 16))
    decaying, others = build_optimizer(model, recipe).param_groups
    assert (decaying["weight_decay"], others["weight_decay"]) == (recipe.weight_decay, 0.0)
    flat = {id(each) for each in others["params"]}
    for module in model.modules():
        for key, each in module.named_parameters(recurse=False):
            is_matrix = isinstance(module, nn.Conv2d | nn.Linear) and key == "weight"
            assert (id(each) not in flat) == is_matrix, (module, key)
    assert len(decaying["params"]) + len(flat) == len(list(model.parameters()))


def test_the_course_of_the_learning_rate() -> None:
    recipe = train.Recipe.small(epochs=10, warmup_epochs=2, learning_rate=1.0)
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=recipe.learning_rate)
    schedule = build_schedule(optimizer, recipe, 5)
    rates = []
    for _ in range(50):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10] == 1.0
    assert rates[30] == pytest.approx(0.5005, abs=1e-4)  # half way down
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(1e-3 + 0.999 * 0.5 * (1 + math.cos(math.pi * 39 / 40)))
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-3)


def test_the_average_of_weights_and_statistics(build: Callable[..., nn.Module]) -> None:
    model = build()
    average = build_average(model, 0.5)
    norm, own = model.stem.norm, average.module.stem.norm
    expected = torch.zeros(8)
    for step, value in enumerate((4.0, 2.0, 6.0)):
        with torch.no_grad():
            norm.weight.fill_(value)
            norm.running_mean.fill_(-value)
        norm.num_batches_tracked += 3
        average.update_parameters(model)
        decay = min(0.5, (1 + step) / (10 + step)) if step else 0.0  # the first is taken as it is
        expected = decay * expected + (1 - decay) * value
        assert torch.allclose(own.weight, expected)
        assert torch.allclose(own.running_mean, -expected)


def test_precisions() -> None:
    cpu = torch.device("cpu")
    assert resolve_precision("auto", cpu) is torch.float32
    assert resolve_precision("bfloat16", cpu) is torch.bfloat16
    with pytest.raises(InvalidArgument, match="float16 is for GPUs"):
        resolve_precision("float16", cpu)
