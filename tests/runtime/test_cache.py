"""The object cache: whatever happens to the disk, `get` gives the right bytes or None."""

import errno
import logging
import multiprocessing
import os
import stat
import sys
import time
from pathlib import Path

import pytest

from waterline.runtime import cache as cache_module
from waterline.runtime.cache import SUFFIX, ObjectCache, default_cache_dir, read_trusted, write_atomically

posix = pytest.mark.skipif(sys.platform == "win32", reason="owners and modes are of POSIX")


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "deep" / "cache"


def only_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


# ---- what it is for -------------------------------------------------------------------------------------------------
def test_keeps_bytes_by_key(folder):
    cache = ObjectCache(folder, "1.0")
    assert cache.get("a") is None
    cache.put("a", b"first")
    cache.put("b", b"")
    cache.put("c/../../ \0 ü " + "long" * 100, bytes(range(256)))
    cache.put("a", b"second")
    for each in (cache, ObjectCache(folder, "1.0")):
        assert each.get("a") == b"second"
        assert each.get("b") == b""
        assert each.get("c/../../ \0 ü " + "long" * 100) == bytes(range(256))
    assert {path.suffix for path in folder.iterdir()} == {SUFFIX}  # no temporary file is left


def test_versions_do_not_meet(folder):
    ObjectCache(folder, "1.0").put("key", b"old")
    new = ObjectCache(folder, "1.1")
    assert new.get("key") is None
    new.put("key", b"new")
    assert ObjectCache(folder, "1.0").get("key") == b"old"
    assert ObjectCache(folder, "1").get(".0\0key") is None


def test_without_a_folder():
    cache = ObjectCache(None, "1.0")
    cache.put("key", b"data")
    assert cache.get("key") is None
    assert cache.size_bytes() == 0
    cache.clear()


def test_size_and_clear(folder):
    cache = ObjectCache(folder, "1.0")
    assert cache.size_bytes() == 0
    cache.put("a", bytes(1000))
    ObjectCache(folder, "0.9").put("b", bytes(1000))
    (folder / "calibration.json").write_text("{}")
    assert 2000 < cache.size_bytes() < 2400
    cache.clear()
    assert cache.size_bytes() == 0
    assert cache.get("a") is None
    assert only_file(folder).name == "calibration.json"  # not ours to remove


@pytest.mark.alone
def test_is_fast(folder):
    cache = ObjectCache(folder, "1.0")
    data = os.urandom(30_000)
    for index in range(60):
        cache.put(f"kernel {index}", data)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        assert all(cache.get(f"kernel {index}") == data for index in range(60))
        times.append(time.perf_counter() - start)
    assert min(times) < 0.02  # 2 ms on a quiet machine


# ---- damage ---------------------------------------------------------------------------------------------------------
def test_a_file_cut_anywhere_is_ignored_and_replaced(folder):
    cache = ObjectCache(folder, "1.0")
    cache.put("key", b"some data")
    path = only_file(folder)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert cache.get("key") is None
    cache.put("key", b"some data")
    assert path.read_bytes() == whole
    assert cache.get("key") == b"some data"


def test_a_flipped_bit_anywhere_is_noticed(folder):
    cache = ObjectCache(folder, "1.0")
    cache.put("key", b"some data")
    path = only_file(folder)
    whole = path.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        assert cache.get("key") is None


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"x" * 5000], ids=["empty", "another format", "noise"])
def test_foreign_content(folder, content):
    cache = ObjectCache(folder, "1.0")
    cache.put("key", b"data")
    only_file(folder).write_bytes(content)
    assert cache.get("key") is None


def test_trailing_bytes(folder):
    cache = ObjectCache(folder, "1.0")
    cache.put("key", b"data")
    with open(only_file(folder), "ab") as file:
        file.write(b"more")
    assert cache.get("key") is None


def test_an_entry_under_the_name_of_another(folder):
    cache = ObjectCache(folder, "1.0")
    cache.put("a", b"for a")
    a = only_file(folder)
    cache.put("b", b"for b")
    (b,) = set(folder.iterdir()) - {a}
    os.replace(a, b)
    assert cache.get("b") is None


# ---- a disk that refuses --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("code", [errno.EACCES, errno.ENOSPC, errno.EROFS, errno.EDQUOT])
@pytest.mark.parametrize("call", ["replace", "fdopen", "mkstemp"])
def test_writes_that_fail_are_logged_once(folder, monkeypatch, caplog, code, call):
    cache = ObjectCache(folder, "1.0")
    cache.put("kept", b"before")

    def fail(*args, **kwargs):
        if call == "fdopen":
            os.close(args[0])
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(cache_module.tempfile if call == "mkstemp" else cache_module.os, call, fail)
    with caplog.at_level(logging.WARNING):
        for index in range(3):
            cache.put(f"lost {index}", b"data")
    assert len(caplog.records) == 1
    assert os.strerror(code) in caplog.text
    monkeypatch.undo()
    assert cache.get("lost 0") is None
    assert cache.get("kept") == b"before"  # what is there can still be read
    assert len(list(folder.iterdir())) == 1  # and nothing half written is left


def test_reads_that_fail_are_logged_once(folder, monkeypatch, caplog):
    cache = ObjectCache(folder, "1.0")
    cache.put("key", b"data")

    def fail(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(cache_module, "read_trusted", fail)
    with caplog.at_level(logging.WARNING):
        assert cache.get("key") is None
        assert cache.get("key") is None
    assert len(caplog.records) == 1


@pytest.mark.parametrize("below", ["", "cache", "a/b"])
def test_a_file_where_the_folder_should_be(tmp_path, caplog, below):
    (tmp_path / "file").write_text("in the way")
    cache = ObjectCache(tmp_path / "file" / below, "1.0")
    with caplog.at_level(logging.WARNING):
        cache.put("key", b"data")
        assert cache.get("key") is None
    assert cache.size_bytes() == 0


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(cache_module.os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert only_file(tmp_path).read_bytes() == b"old"


# ---- other users ----------------------------------------------------------------------------------------------------
@posix
def test_new_folders_and_files_are_private(folder):
    before = os.umask(0)
    try:
        ObjectCache(folder, "1.0").put("key", b"data")
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(only_file(folder).stat().st_mode) == 0o600


@posix
@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_is_not_believed(folder, caplog, mode):
    cache = ObjectCache(folder, "1.0")
    cache.put("key", b"data")
    only_file(folder).chmod(mode)
    with caplog.at_level(logging.WARNING):
        assert cache.get("key") is None
    assert "may be written by others" in caplog.text
    cache.put("key", b"data")  # replaces it with one of ours
    assert cache.get("key") == b"data"


@posix
def test_a_file_of_another_user_is_not_believed(folder, monkeypatch):
    cache = ObjectCache(folder, "1.0")
    cache.put("key", b"data")
    path = only_file(folder)
    assert read_trusted(path)
    if os.geteuid() == 0:
        os.chown(path, 12345, 12345)
    else:
        monkeypatch.setattr(cache_module.os, "geteuid", lambda: 12345)
    assert cache.get("key") is None


@posix
def test_a_folder_of_another_user_is_not_used(folder, monkeypatch, caplog):
    ObjectCache(folder, "1.0").put("key", b"data")
    if os.geteuid() == 0:
        os.chown(folder, 12345, 12345)
    else:
        monkeypatch.setattr(cache_module.os, "geteuid", lambda: 12345)
    with caplog.at_level(logging.WARNING):
        cache = ObjectCache(folder, "1.0")
    assert "another user" in caplog.text
    assert cache.get("key") is None
    cache.put("new", b"data")
    assert len(list(folder.iterdir())) == 1


# ---- a bounded size -------------------------------------------------------------------------------------------------
def set_age(folder: Path, seconds: float) -> None:
    for path in folder.iterdir():
        os.utime(path, (time.time() - seconds,) * 2)


def test_evicts_what_was_not_used_for_longest(folder):
    cache = ObjectCache(folder, "1.0", limit_bytes=10_000)
    for index in range(3):
        cache.put(f"old {index}", bytes(2000))
    set_age(folder, 3 * 86400)
    assert cache.get("old 1") is not None  # in use again
    for index in range(3):
        cache.put(f"new {index}", bytes(2000))
    assert cache.get("old 0") is None
    assert cache.get("old 2") is None
    assert cache.get("old 1") is not None
    assert all(cache.get(f"new {index}") is not None for index in range(3))
    assert cache.size_bytes() <= 10_000


def test_counts_what_other_processes_wrote(folder):
    ObjectCache(folder, "0.9").put("large", bytes(20_000))
    set_age(folder, 60)
    cache = ObjectCache(folder, "1.0", limit_bytes=10_000)
    cache.put("key", b"data")
    assert cache.size_bytes() < 1000
    assert cache.get("key") == b"data"


def test_an_entry_above_the_limit_is_not_kept_and_does_no_harm(folder):
    cache = ObjectCache(folder, "1.0", limit_bytes=1000)
    cache.put("large", bytes(5000))
    assert cache.get("large") is None
    cache.put("small", b"data")
    assert cache.get("small") == b"data"


def test_temporary_files_of_dead_processes_are_removed(folder):
    folder.mkdir(parents=True)
    abandoned, fresh = folder / f"1{SUFFIX}xyz.tmp", folder / f"2{SUFFIX}xyz.tmp"
    abandoned.write_bytes(b"half")
    set_age(folder, 2 * 3600)
    fresh.write_bytes(b"half")
    ObjectCache(folder, "1.0").put("key", b"data")
    assert not abandoned.exists()
    assert fresh.exists()


# ---- several processes ----------------------------------------------------------------------------------------------
def _write_and_read(folder: str, worker: int, rounds: int, failures) -> None:
    cache = ObjectCache(Path(folder), "1.0", limit_bytes=120_000)  # small: processes evict under each other's feet
    for turn in range(rounds):
        for key in range(8):
            cache.put(str(key), bytes([key]) * (5000 + key))
            data = cache.get(str((key + turn + worker) % 8))
            expected = (key + turn + worker) % 8
            if data is not None and data != bytes([expected]) * (5000 + expected):
                failures.put(f"worker {worker} read other bytes for key {expected}")
        if turn % 10 == worker:
            cache.clear()


def test_processes_that_write_at_once(folder):
    context = multiprocessing.get_context("spawn")
    failures = context.Queue()
    workers = [context.Process(target=_write_and_read, args=(str(folder), worker, 30, failures)) for worker in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert failures.empty(), failures.get()
    assert not [path for path in folder.iterdir() if path.suffix == ".tmp"]


# ---- its place ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("environ", "system", "expected"),
    [
        ({"HOME": "/home/ada"}, "linux", "/home/ada/.cache/waterline"),
        ({"HOME": "/home/ada", "XDG_CACHE_HOME": "/var/ada"}, "linux", "/var/ada/waterline"),
        ({"HOME": "/home/ada", "XDG_CACHE_HOME": "relative"}, "linux", "/home/ada/.cache/waterline"),
        ({"HOME": "/home/ada", "XDG_CACHE_HOME": ""}, "linux", "/home/ada/.cache/waterline"),
        ({"HOME": "/Users/ada"}, "darwin", "/Users/ada/Library/Caches/waterline"),
        ({"LOCALAPPDATA": "/Ada/Local"}, "win32", "/Ada/Local/waterline/cache"),
        ({"HOME": "/home/ada", "WATERLINE_CACHE_DIR": "/fast/disk"}, "linux", "/fast/disk"),
        ({"HOME": "/home/ada", "WATERLINE_CACHE_DIR": ""}, "linux", None),
        ({}, "linux", None),
        ({"HOME": ""}, "darwin", None),
        ({}, "win32", None),
    ],
)
def test_default_folder(environ, system, expected):
    assert default_cache_dir(environ, system) == (None if expected is None else Path(expected))
