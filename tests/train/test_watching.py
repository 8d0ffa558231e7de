"""What people see while a network is trained."""

from __future__ import annotations

import io
import re
import sys

import pytest

from waterline.train.watching import Bar, Epoch, Lines, Step, Watcher, duration, summary, terminal

STEP = Step(step=30, steps=40, epoch=2, loss=1.2345, learning_rate=1e-3, images_per_s=321.4, seconds_left=125.0)
EPOCH = Epoch(epoch=2, step=30, train_loss=1.5, learning_rate=1e-3, val_accuracy=0.9, ema_accuracy=0.95, seconds=61.0)


def look(watcher: Watcher) -> None:
    watcher.begin(0, 40, 4)
    watcher.say("a line for people")
    watcher.step(STEP)
    watcher.epoch(EPOCH)
    watcher.end()


def test_times_for_people() -> None:
    found = [duration(seconds) for seconds in (-1, 0.4, 59.4, 59.6, 3599, 3601, 90_000)]
    assert found == ["0 s", "0 s", "59 s", "1 min 0 s", "59 min 59 s", "1 h 0 min", "25 h 0 min"]


def test_lines(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    look(Lines())
    assert capsys.readouterr().err.splitlines() == [
        "a line for people",
        "epoch 3 of 4: loss 1.5000, accuracy 90.00 %, of the average 95.00 %, 1 min 1 s, 2 min 5 s left",
    ]
    monkeypatch.setattr(Lines, "SECONDS", -1.0)
    look(Lines())
    assert "step 30 of 40: loss 1.234, 321 images/s, 2 min 5 s left" in capsys.readouterr().err


def test_a_bar() -> None:
    console = pytest.importorskip("rich.console", reason="the bar is rich's")
    out = io.StringIO()
    look(Bar(console.Console(file=out, force_terminal=True, width=120, highlight=False)))
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.getvalue())
    assert "epoch 3/4" in text
    assert "30/40" in text
    assert "loss 1.234, 321 images/s" in text
    assert "2 min 5 s left" in text
    assert "a line for people" in text
    assert summary(EPOCH, 4) in text


def test_lines_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(terminal(), Lines)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert isinstance(terminal(), Bar)
