"""Checkpoints: whole or not there, whenever the process is killed; a torn one is recognised."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path

import pytest
import torch

from waterline.errors import Error, InvalidArgument
from waterline.train.checkpoint import Checkpoints

SIZE = 20_000


def state(step: int) -> dict[str, object]:
    return {"step": step, "weights": torch.full((SIZE,), float(step))}


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "run", lambda text: (tmp_path / "said").write_text(text))


def said(tmp_path: Path) -> str:
    return (tmp_path / "said").read_text() if (tmp_path / "said").exists() else ""


def test_the_last_two_are_kept(checkpoints: Checkpoints, tmp_path: Path) -> None:
    assert checkpoints.load() is None
    for step in (5, 10, 1_000_000_000, 2_000_000_000):
        checkpoints.save(state(step), step)
    names = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert names == ["checkpoint-1000000000.pt", "checkpoint-2000000000.pt"]
    found = checkpoints.load()
    assert found is not None
    assert found["step"] == 2_000_000_000
    assert torch.equal(found["weights"], torch.full((SIZE,), 2e9))
    assert said(tmp_path) == ""


@pytest.mark.parametrize("damage", ["half", "flipped", "empty", "text", "tail"])
def test_a_torn_one_is_recognised_and_the_one_before_taken(
    checkpoints: Checkpoints, tmp_path: Path, damage: str
) -> None:
    checkpoints.save(state(1), 1)
    path = checkpoints.save(state(2), 2)
    content = path.read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    damaged = {"half": content[:middle], "flipped": flipped, "empty": b"", "text": b"x" * 999, "tail": content[:-30]}
    path.write_bytes(damaged[damage])
    found = checkpoints.load()
    assert found is not None
    assert found["step"] == 1
    assert "checkpoint-000000002.pt is torn" in said(tmp_path)
    checkpoints.save(state(2), 2)  # which takes the torn one's place
    found = checkpoints.load()
    assert found is not None
    assert found["step"] == 2


def test_none_that_is_whole(checkpoints: Checkpoints) -> None:
    checkpoints.save(state(1), 1).write_bytes(b"torn")
    with pytest.raises(InvalidArgument, match=r"no checkpoint in .* is whole"):
        checkpoints.load()


@pytest.mark.parametrize(
    "moment", ["half written", "not yet on the disk", "without its name", "before the old is gone"]
)
def test_a_kill_while_one_is_written(
    checkpoints: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forked, moment: str
) -> None:
    for step in (1, 2):
        checkpoints.save(state(step), step)

    def killed(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def half(value: object, file) -> None:
        real(value, file)
        file.truncate(file.tell() // 2)
        file.flush()
        killed()

    real = torch.save
    if moment == "half written":
        monkeypatch.setattr(torch, "save", half)
    elif moment == "not yet on the disk":
        monkeypatch.setattr(os, "fsync", killed)
    elif moment == "without its name":
        monkeypatch.setattr(os, "replace", killed)
    else:
        monkeypatch.setattr(Path, "unlink", killed)
    assert forked(lambda: checkpoints.save(state(3), 3)) == "killed by SIGKILL"
    monkeypatch.undo()
    found = checkpoints.load()
    assert found is not None
    assert found["step"] == (3 if moment == "before the old is gone" else 2)
    assert torch.equal(found["weights"], torch.full((SIZE,), float(found["step"])))
    checkpoints.save(state(4), 4)
    assert len(list((tmp_path / "run").iterdir())) == 2  # and nothing half-written is left


def test_a_full_disk_leaves_what_was_there(checkpoints: Checkpoints, forked) -> None:
    checkpoints.save(state(1), 1)

    def full() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE, SIZE))
        with pytest.raises(Error, match=r"checkpoint-000000002\.pt cannot be written"):
            checkpoints.save(state(2), 2)

    assert forked(full) == ""
    found = checkpoints.load()
    assert found is not None
    assert found["step"] == 1


def test_a_file_of_another_format(checkpoints: Checkpoints) -> None:
    path = checkpoints.save(state(1), 1)
    torch.save({"format": 99}, path)
    with pytest.raises(InvalidArgument, match="format 99"):
        checkpoints.load()


def test_a_file_with_code_in_it_is_not_run(checkpoints: Checkpoints, tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "harm"),)

    path = checkpoints.save(state(1), 1)
    torch.save({"format": 1, "step": Harmful()}, path)
    with pytest.raises(InvalidArgument, match="is no checkpoint"):
        checkpoints.load()
    assert path.exists()
    assert not (tmp_path / "harm").exists()
