"""Networks and the folder that keeps their kernels: read-only, full, damaged, foreign or absent."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import waterline
from waterline.api import environment
from waterline.runtime import loader

from .networks import graph, image


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache folder, and a process that remembers neither kernels nor its old cache."""
    monkeypatch.setenv("WATERLINE_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(loader, "_loaded", {})
    environment.machine()  # measured already: not part of these tests
    environment.object_cache.cache_clear()
    yield tmp_path
    environment.object_cache.cache_clear()


@pytest.fixture
def forget(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """As if the process were started again, with the same folder."""

    def start_again() -> None:
        monkeypatch.setattr(loader, "_loaded", {})
        environment.object_cache.cache_clear()

    return start_again


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Kernels that were compiled, because neither process nor folder had them."""
    real, seen = loader.compile_object, []

    def compile_object(text: str, *arguments: Any) -> bytes:
        seen.append(text)
        return real(text, *arguments)

    monkeypatch.setattr(loader, "compile_object", compile_object)
    return seen


def entries(folder: Path) -> list[Path]:
    return sorted((folder / "kernels").iterdir())


def test_kernels_are_read_back(folder: Path, forget: Callable[[], None], compiled: list[str]) -> None:
    expected = waterline.compile(graph())(image())
    count = len(compiled)
    assert count > 0
    assert len(entries(folder)) == count
    forget()
    np.testing.assert_array_equal(waterline.compile(graph())(image()), expected)
    assert len(compiled) == count


@pytest.mark.parametrize("damage", ["cut in half", "empty", "one bit", "another program's", "longer"])
def test_damaged_files_are_compiled_again(
    folder: Path, forget: Callable[[], None], compiled: list[str], damage: str
) -> None:
    expected = waterline.compile(graph())(image())
    count = len(compiled)
    whole = {path: path.read_bytes() for path in entries(folder)}
    for path, data in whole.items():
        flipped = bytearray(data)
        flipped[-len(data) // 3] ^= 1
        path.write_bytes(
            {
                "cut in half": data[: len(data) // 2],
                "empty": b"",
                "one bit": bytes(flipped),
                "another program's": b"\x7fELF" + os.urandom(len(data)),
                "longer": data + b"\0",
            }[damage]
        )
    forget()
    np.testing.assert_array_equal(waterline.compile(graph())(image()), expected)
    assert len(compiled) == 2 * count
    assert {path: path.read_bytes() for path in entries(folder)} == whole  # written whole again


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_folder_that_cannot_be_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    """No permission, no space: one warning, and the network runs."""
    import builtins

    real_open, real_os_open = builtins.open, os.open

    def fails(path: Any) -> bool:
        return isinstance(path, str | os.PathLike) and str(folder) in os.fspath(path)

    def refuse_open(path: Any, mode: str = "r", *arguments: Any, **keywords: Any) -> Any:
        if fails(path) and set(mode) & set("wxa+"):
            raise OSError(number, os.strerror(number), str(path))
        return real_open(path, mode, *arguments, **keywords)

    def refuse_os_open(path: Any, flags: int, *arguments: Any, **keywords: Any) -> int:
        if fails(path) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(number, os.strerror(number), str(path))
        return real_os_open(path, flags, *arguments, **keywords)

    monkeypatch.setattr(builtins, "open", refuse_open)
    monkeypatch.setattr(os, "open", refuse_os_open)
    with caplog.at_level(logging.WARNING, logger="waterline"):
        result = waterline.compile(graph())(image())
    monkeypatch.undo()
    assert result.shape == (1, 8, 12, 10)
    warnings = [record.getMessage() for record in caplog.records if "cache" in record.getMessage()]
    assert len(warnings) == 1
    assert os.strerror(number) in warnings[0]


def test_a_disk_that_fills_up_while_writing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, forget: Callable[[], None], compiled: list[str]
) -> None:
    """What was written by half is not taken for an entry."""

    def replace(*arguments: Any, **keywords: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", replace)
        patched.setattr(os, "rename", replace)
        patched.setattr(os, "link", replace)
        expected = waterline.compile(graph())(image())
    count = len(compiled)
    forget()
    np.testing.assert_array_equal(waterline.compile(graph())(image()), expected)
    assert len(compiled) == 2 * count


def test_a_file_in_the_folders_place(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "kernels").write_text("not a folder")
    with caplog.at_level(logging.WARNING, logger="waterline"):
        assert waterline.compile(graph())(image()).shape == (1, 8, 12, 10)
    assert (folder / "kernels").read_text() == "not a folder"


def test_no_folder_at_all(folder: Path, monkeypatch: pytest.MonkeyPatch, forget: Callable[[], None]) -> None:
    monkeypatch.setenv("WATERLINE_CACHE_DIR", "")
    forget()
    assert waterline.compile(graph())(image()).shape == (1, 8, 12, 10)
    assert list(folder.iterdir()) == []


def test_a_removed_folder(folder: Path, forget: Callable[[], None]) -> None:
    waterline.compile(graph())
    for path in entries(folder):
        path.unlink()
    (folder / "kernels").rmdir()
    forget()
    assert waterline.compile(graph())(image()).shape == (1, 8, 12, 10)
    assert entries(folder)
