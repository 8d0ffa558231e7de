"""Small data and small networks: a few hundred digits of 16x16, and a ConvFirst of two blocks."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="training is done by PyTorch")
for _package in ("torchvision", "tensorboard", "sklearn", "PIL"):
    if importlib.util.find_spec(_package) is None:
        pytest.skip(f"training needs {_package}, of the extra `train`", allow_module_level=True)

import torch  # noqa: E402

from waterline import train  # noqa: E402

SHAPE = {"depths": (1, 1), "widths": (8, 16), "head_width": 32}
ARGUMENTS = (  # the same as a command
    *("train", "convfirst", "--data", "digits", "--image-size", "16", "--limit", "128", "--epochs", "2"),
    *("--batch-size", "32", "--depths", "1,1", "--widths", "8,16", "--head-width", "32", "--drop-path", "0.3"),
)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Other tests' threads change the last digits; files go to the test's own folder."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def all_digits() -> train.Data:
    return train.digits(16)


@pytest.fixture(scope="session")
def digits(all_digits: train.Data) -> train.Data:
    """128 images for training, 32 for validation."""
    return all_digits.limited(128)


@pytest.fixture
def recipe() -> train.Recipe:
    """Four steps an epoch."""
    return train.Recipe.small(epochs=2, batch_size=32, drop_path=0.3, seed=3)


@pytest.fixture
def build(recipe: train.Recipe) -> Callable[..., torch.nn.Module]:
    def network(**changes: Any) -> torch.nn.Module:
        values = {"drop_path_rate": recipe.drop_path, "seed": recipe.seed, **SHAPE, **changes}
        return train.build_model("convfirst", 10, **values)

    return network


class Recorder(train.Watcher):
    """Remembers what it is told, and may stop training by an exception after a step."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after = stop_after
        self.lines: list[str] = []
        self.steps: list[train.Step] = []
        self.epochs: list[train.Epoch] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def step(self, at: train.Step) -> None:
        self.steps.append(at)
        if at.step == self.stop_after:
            raise StoppedError

    def epoch(self, at: train.Epoch) -> None:
        self.epochs.append(at)

    @property
    def losses(self) -> list[float]:
        return [at.loss for at in self.steps]


class StoppedError(Exception):
    """What a Recorder raises."""


@pytest.fixture
def recorder() -> type[Recorder]:
    return Recorder


def assert_same_weights(one: torch.nn.Module, other: torch.nn.Module) -> None:
    """Bit for bit, statistics too."""
    expected = other.state_dict()
    for name, value in one.state_dict().items():
        assert torch.equal(value, expected[name]), name
