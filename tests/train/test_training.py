"""Training: it learns, it is repeatable, it goes on exactly where it was, and Waterline finds what PyTorch finds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Recorder, StoppedError, assert_same_weights
from torch import nn

import waterline
from waterline import train
from waterline.errors import Error, InvalidArgument

Build = Callable[..., nn.Module]
STEPS = 4  # an epoch


def without_times(history: tuple[train.Epoch, ...]) -> list[train.Epoch]:
    return [dataclasses.replace(at, seconds=0.0) for at in history]


@pytest.fixture
def whole(build: Build, digits: train.Data, recipe: train.Recipe) -> tuple[train.Result, list[float]]:
    """A run without interruption, and its losses."""
    watcher = Recorder()
    return train.fit(build(), digits, recipe, watchers=[watcher]), watcher.losses


# ---- it learns -------------------------------------------------------------------------------------------------------
def test_it_learns_digits_and_waterline_agrees(all_digits: train.Data) -> None:
    recipe = train.Recipe.small(
        epochs=3, batch_size=32, learning_rate=8e-3, mix_probability=0.3, randaugment_ops=1, drop_path=0.05
    )
    model = train.build_model(
        "convfirst", 10, depths=(1, 1), widths=(16, 32), head_width=64, drop_path_rate=recipe.drop_path
    )
    result = train.fit(model, all_digits, recipe)
    assert result.accuracy > 0.8
    assert result.history[-1].val_accuracy > 0.8
    losses = [at.train_loss for at in result.history]
    assert losses == sorted(losses, reverse=True)
    for network in (result.model, result.trained):
        found = train.verify(network, all_digits)
        assert found.images == 360
        assert found.differing == 0
        assert found.waterline_accuracy == found.pytorch_accuracy
        assert found.largest_difference < 1e-4 * found.largest_score
    assert found.pytorch_accuracy == result.accuracy


def test_a_trained_network_is_compiled_as_it_is(whole: tuple[train.Result, list[float]]) -> None:
    model = whole[0].trained
    assert not model.training
    x = torch.randn(4, 3, 16, 16)
    with torch.inference_mode():
        expected = model(x)
    assert torch.allclose(waterline.compile(model, x)(x), expected, atol=1e-5)


def test_convnext_by_the_same_recipe(digits: train.Data, recipe: train.Recipe) -> None:
    model = train.build_model("convnext", 10, depths=(1, 1), widths=(8, 16), stem_stride=2, drop_path_rate=0.1)
    result = train.fit(model, digits, recipe)
    assert len(result.history) == 2
    assert result.history[1].train_loss < result.history[0].train_loss
    assert train.verify(result.trained, digits).differing == 0


def test_any_module_and_a_recipe_without_extras(digits: train.Data) -> None:
    recipe = train.Recipe.small(
        epochs=2, batch_size=32, ema_decay=0.0, mixup=0.0, cutmix=0.0, randaugment_ops=0, clip_norm=0.1
    )
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 10))
    before = [each.detach().clone() for each in model.parameters()]
    result = train.fit(model, digits, recipe)
    assert result.average is None
    assert result.trained is model
    assert result.accuracy == result.history[-1].val_accuracy
    assert result.history[-1].ema_accuracy is None
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_mixed_precision(build: Build, digits: train.Data, recipe: train.Recipe) -> None:
    """On a CPU bfloat16 can be asked for; a GPU does it by itself."""
    types = []
    model = build()
    model.head.fc.register_forward_hook(lambda module, inputs, output: types.append(output.dtype))
    result = train.fit(model, digits, dataclasses.replace(recipe, epochs=1, warmup_epochs=0, precision="bfloat16"))
    assert torch.bfloat16 in types
    assert {each.dtype for each in result.model.parameters()} == {torch.float32}


# ---- it is repeatable ------------------------------------------------------------------------------------------------
def test_equal_seeds_are_equal(
    build: Build, digits: train.Data, recipe: train.Recipe, whole: tuple[train.Result, list[float]]
) -> None:
    torch.manual_seed(99)  # what happened before does not matter
    torch.rand(7)
    state = torch.get_rng_state()
    watcher = Recorder()
    result = train.fit(build(), digits, recipe, watchers=[watcher], workers=2)
    assert watcher.losses == whole[1]
    assert without_times(result.history) == without_times(whole[0].history)
    assert_same_weights(result.model, whole[0].model)
    assert_same_weights(result.trained, whole[0].trained)
    assert torch.equal(torch.get_rng_state(), state)  # and what comes after is not changed
    assert not torch.are_deterministic_algorithms_enabled()
    other = Recorder()
    train.fit(build(), digits, dataclasses.replace(recipe, seed=4), watchers=[other])
    assert not set(other.losses) & set(whole[1])


@pytest.mark.parametrize("stop", [1, 2, 3, STEPS, STEPS + 3])
def test_it_goes_on_exactly_where_it_was(
    build: Build,
    digits: train.Data,
    recipe: train.Recipe,
    whole: tuple[train.Result, list[float]],
    tmp_path: Path,
    stop: int,
) -> None:
    first = Recorder(stop_after=stop)
    with pytest.raises(StoppedError):
        train.fit(build(), digits, recipe, folder=tmp_path / "run", checkpoint_steps=2, watchers=[first])
    torch.manual_seed(stop)
    second = Recorder()
    result = train.fit(
        build(seed=77 if stop > 2 else recipe.seed),  # whose weights do not matter where there is a checkpoint
        digits,
        recipe,
        folder=tmp_path / "run",
        checkpoint_steps=2,
        watchers=[second],
        is_resuming=True,
    )
    done = (stop - 1) // 2 * 2  # a step is told before its checkpoint is written
    assert first.losses + second.losses[stop - done :] == whole[1]
    assert second.losses == whole[1][done:]
    assert without_times(result.history) == without_times(whole[0].history)
    assert_same_weights(result.model, whole[0].model)
    assert_same_weights(result.trained, whole[0].trained)
    said = f"going on after step {done} of 8" if done else "there is no checkpoint yet"
    assert said in second.lines[0]


def test_a_finished_run_is_only_read(
    build: Build, digits: train.Data, recipe: train.Recipe, whole: tuple[train.Result, list[float]], tmp_path: Path
) -> None:
    train.fit(build(), digits, recipe, folder=tmp_path / "run")
    watcher = Recorder()
    result = train.fit(build(), digits, recipe, folder=tmp_path / "run", is_resuming=True, watchers=[watcher])
    assert watcher.losses == []
    assert_same_weights(result.trained, whole[0].trained)


def test_a_torn_checkpoint_costs_an_epoch(
    build: Build, digits: train.Data, recipe: train.Recipe, whole: tuple[train.Result, list[float]], tmp_path: Path
) -> None:
    train.fit(build(), digits, recipe, folder=tmp_path / "run")
    last = tmp_path / "run" / "checkpoint-000000008.pt"
    last.write_bytes(last.read_bytes()[:5000])
    watcher = Recorder()
    result = train.fit(build(), digits, recipe, folder=tmp_path / "run", is_resuming=True, watchers=[watcher])
    assert "checkpoint-000000008.pt is torn" in watcher.lines[0]
    assert "going on after step 4 of 8, in epoch 2" in watcher.lines[1]
    assert watcher.losses == whole[1][STEPS:]
    assert_same_weights(result.trained, whole[0].trained)


# ---- those who look on -----------------------------------------------------------------------------------------------
def test_what_watchers_are_told(build: Build, digits: train.Data, recipe: train.Recipe) -> None:
    watcher = Recorder()
    result = train.fit(build(), digits, recipe, watchers=[watcher])
    assert [at.step for at in watcher.steps] == list(range(1, 9))
    assert {at.steps for at in watcher.steps} == {8}
    assert [at.epoch for at in watcher.steps] == [0] * 4 + [1] * 4
    assert [at.learning_rate for at in watcher.steps][:4] == pytest.approx(
        [recipe.learning_rate * k / 4 for k in (1, 2, 3, 4)]
    )
    assert all(at.images_per_s > 0 for at in watcher.steps)
    assert watcher.steps[0].seconds_left > 0 == watcher.steps[-1].seconds_left
    assert tuple(watcher.epochs) == result.history
    for epoch, at in enumerate(result.history):
        assert at.train_loss == pytest.approx(sum(watcher.losses[4 * epoch :][:4]) / 4)
        assert 0 <= at.val_accuracy <= 1


def test_scalars_for_tensorboard(build: Build, digits: train.Data, recipe: train.Recipe, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run, scalars = tmp_path / "run", tmp_path / "scalars"
    stopped = [train.TensorBoard(scalars), Recorder(stop_after=6)]
    with pytest.raises(StoppedError):
        train.fit(build(), digits, recipe, folder=run, watchers=stopped)
    watcher = Recorder()
    result = train.fit(
        build(), digits, recipe, folder=run, watchers=[train.TensorBoard(scalars), watcher], is_resuming=True
    )
    found = EventAccumulator(str(scalars)).Reload()
    expected = {"train/loss", "train/learning_rate", "train/images_per_s", "val/accuracy", "val/ema_accuracy"}
    assert set(found.Tags()["scalars"]) == expected
    losses = found.Scalars("train/loss")
    assert [each.step for each in losses] == list(range(1, 9))  # those after the checkpoint once, not twice
    assert [each.value for each in losses[4:]] == pytest.approx(watcher.losses)
    accuracies = found.Scalars("val/ema_accuracy")
    assert [(each.step, each.value) for each in accuracies] == [
        (at.step, pytest.approx(at.ema_accuracy)) for at in result.history
    ]


# ---- mistakes --------------------------------------------------------------------------------------------------------
def test_a_checkpoint_of_another_run(build: Build, digits: train.Data, recipe: train.Recipe, tmp_path: Path) -> None:
    short = dataclasses.replace(recipe, epochs=1, warmup_epochs=0)
    train.fit(build(), digits, short, folder=tmp_path)
    with pytest.raises(InvalidArgument, match="is there already") as raised:
        train.fit(build(), digits, short, folder=tmp_path)
    assert "--resume" in raised.value.hint
    for model, data, other, words in (
        (build(), digits, dataclasses.replace(short, learning_rate=0.5), "learning_rate 0.004, not 0.5"),
        (build(), digits, dataclasses.replace(short, seed=4, mixup=0.3), "mixup 0.2, not 0.3; seed 3, not 4"),
        (build(widths=(16, 16)), digits, short, "parameters"),
        (build(), digits.limited(64), short, "data digits:128, not digits:128:64; training images 128, not 64"),
    ):
        with pytest.raises(InvalidArgument, match=words):
            train.fit(model, data, other, folder=tmp_path, is_resuming=True)


def test_networks_that_do_not_fit_the_data(build: Build, digits: train.Data, recipe: train.Recipe) -> None:
    with pytest.raises(InvalidArgument, match="10 classes"):
        train.fit(train.build_model("convfirst", 7, depths=(1,), widths=(8,)), digits, recipe)
    large = nn.Sequential(nn.Conv2d(3, 8, 17), nn.Flatten(), nn.Linear(8, 10))
    with pytest.raises(InvalidArgument, match="16x16"):
        train.fit(large, digits, recipe)


def test_other_mistakes(build: Build, digits: train.Data, recipe: train.Recipe, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="nothing to resume"):
        train.fit(build(), digits, recipe, is_resuming=True)
    with pytest.raises(InvalidArgument, match="checkpoint_steps"):
        train.fit(build(), digits, recipe, folder=tmp_path, checkpoint_steps=0)
    with pytest.raises(InvalidArgument, match="device 'tpu'"):
        train.fit(build(), digits, recipe, device="tpu")
    if not torch.cuda.is_available():
        with pytest.raises(InvalidArgument, match="'cuda' is not there"):
            train.fit(build(), digits, recipe, device="cuda")


def test_a_loss_that_is_not_finite(digits: train.Data, recipe: train.Recipe, tmp_path: Path) -> None:
    class Exploding(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.flatten(1)) / (0.0 if self.training else 1.0)

    with pytest.raises(Error, match="the loss is nan at step 1") as raised:
        train.fit(Exploding(768, 10), digits, recipe, folder=tmp_path / "run")
    assert not isinstance(raised.value, InvalidArgument)
    assert not (tmp_path / "run").exists()
