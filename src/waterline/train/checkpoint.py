"""Checkpoints that survive a kill at any moment, also in the middle of writing one.

A checkpoint is written to a temporary file, forced to the disk and then given its name, in one step of the file system:
`checkpoint-000000123.pt` of step 123 is whole or not there. The last two are kept. Should a disk have lost what it
promised, the checksums of the file (PyTorch's files are zip archives) tell, and the one before is used.
"""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from waterline.errors import Error, InvalidArgument

FORMAT = 1
KEPT = 2
_NAME = re.compile(r"checkpoint-(\d{9,})\.pt")

State = dict[str, Any]


class Checkpoints:
    """The checkpoints in a folder. One process at a time may write there."""

    def __init__(self, folder: str | Path, say: Callable[[str], None]) -> None:
        self._folder, self._say = Path(folder), say

    def names(self) -> list[Path]:
        """Files, the latest step first."""
        if not self._folder.is_dir():
            return []
        found = {path: match for path in self._folder.iterdir() if (match := _NAME.fullmatch(path.name))}
        return sorted(found, key=lambda path: int(found[path][1]), reverse=True)

    def save(self, state: State, step: int) -> Path:
        """Write a checkpoint and remove those that are older than the one before.

        Raises:
            Error: the file cannot be written; the checkpoints that were there are as they were.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"checkpoint-{step:09d}.pt"
        temporary = path.with_suffix(".tmp")
        try:
            with open(temporary, "wb") as file:
                torch.save({"format": FORMAT, **state}, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except (OSError, RuntimeError) as error:  # PyTorch's own, when a disk is full
            temporary.unlink(missing_ok=True)
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            raise Error(
                f"the checkpoint {path} cannot be written: {reason}",
                "check the free space and the permissions; --resume goes on from the one before",
            ) from error
        _force_names(self._folder)
        for old in self.names()[KEPT:]:
            old.unlink(missing_ok=True)
        for torn in self._folder.glob("checkpoint-*.tmp"):  # of a process that was killed while writing
            torn.unlink(missing_ok=True)
        return path

    def load(self) -> State | None:
        """The latest checkpoint that is whole, on the CPU; None if there is none at all.

        One that is torn is renamed, with a line that says so, and the one before is taken.

        Raises:
            InvalidArgument: there are checkpoints, and none is whole; or one of another format, or another program's.
        """
        names = self.names()
        for path in names:
            state = _read(path)
            if state is None:
                os.replace(path, path.with_suffix(".torn"))
                self._say(f"{path} is torn; the checkpoint before it is taken")
                continue
            if state.get("format") != FORMAT:
                raise InvalidArgument(
                    f"{path} has format {state.get('format')}, not {FORMAT}", "begin anew in another folder"
                )
            return state
        if names:
            raise InvalidArgument(f"no checkpoint in {self._folder} is whole", "begin anew in another folder")
        return None


def _read(path: Path) -> State | None:
    """A file's content, None if it is not as it was written. PyTorch does not check the checksums itself.

    Raises:
        InvalidArgument: it is as it was written, and no checkpoint.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                return None
    except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError):  # a damaged directory can say anything
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError) as error:
        raise InvalidArgument(f"{path} is no checkpoint of `waterline train`", "move it elsewhere") from error
    return state if isinstance(state, dict) else {}


def _force_names(folder: Path) -> None:
    """A file's new name is on the disk when its folder is."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
