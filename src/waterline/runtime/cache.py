"""Object code kept on disk, one file a kernel.

A file is a header (magic, format, lengths, checksum), the identity (version and key) and the data. A file that is cut,
damaged, of another format or of another identity is as good as none, and the next `put` replaces it. Files appear under
their names complete (`os.replace`), so any number of processes may read and write the same folder.

What is loaded from here is executed. A file is therefore believed only if it belongs to this user or to root and nobody
else may write to it, whatever the folder's permissions are; the checksum is against accidents, not against attackers.
New folders are made with mode 0700, and a folder that belongs to somebody else is not used at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import stat
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

_log = logging.getLogger(__name__)

FORMAT = 1
SUFFIX = ".kernel"
_MAGIC = b"WTRLINE\0"
_HEADER = struct.Struct("<8sIIQ32s")  # magic, format, bytes of identity, bytes of data, checksum of both

_DAY_S = 86400.0
_PUTS_BETWEEN_SCANS = 64  # other processes write too: their files are counted at the next scan
_KEPT_AFTER_EVICTION = 0.8  # of the limit, so that a full cache is not scanned at every put
_TEMPORARY_LIFE_S = 3600.0  # a temporary file older than this was left by a process that died


def default_cache_dir(environ: Mapping[str, str], system: str = sys.platform) -> Path | None:
    """Where caches belong on `system` for a user with these environment variables.

    `WATERLINE_CACHE_DIR` comes first (empty: no cache), then the platform's rule: `$XDG_CACHE_HOME/waterline` or
    `~/.cache/waterline`, `~/Library/Caches/waterline` on macOS, `%LOCALAPPDATA%\\waterline\\cache` on Windows.

    Returns:
        None where there is no place for a cache, for instance without a home.
    """
    if "WATERLINE_CACHE_DIR" in environ:
        chosen = environ["WATERLINE_CACHE_DIR"]
        return Path(chosen) if chosen else None
    if system == "win32":
        local = environ.get("LOCALAPPDATA")
        return Path(local) / "waterline" / "cache" if local else None
    xdg = environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(xdg):  # a relative one is to be ignored, says the XDG specification
        return Path(xdg) / "waterline"
    home = environ.get("HOME")
    if not home:
        return None
    return Path(home) / ("Library/Caches" if system == "darwin" else ".cache") / "waterline"


def write_atomically(path: Path, data: bytes) -> None:
    """Make `path` hold `data`: at every moment readers see the old file or the new one.

    Raises:
        OSError: the folder cannot be made or written, or the disk is full. Nothing is left behind.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=path.name, suffix=".tmp", dir=path.parent)  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def read_trusted(path: Path) -> bytes:
    """The file's bytes, if nobody but this user and root can have written them.

    Raises:
        OSError: the file is missing or not readable; PermissionError also when it is not to be trusted.
    """
    with open(path, "rb") as file:
        _check_owner(path, os.fstat(file.fileno()))
        return file.read()


def _check_owner(path: Path, status: os.stat_result) -> None:
    if not hasattr(os, "geteuid"):  # Windows: the user's local folder is protected by its access list
        return
    is_shared = stat.S_ISREG(status.st_mode) and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if status.st_uid not in (os.geteuid(), 0) or is_shared:
        raise PermissionError(f"{path} belongs to another user or may be written by others; it is not used")


class ObjectCache:
    """Bytes by key, on disk.

    No method raises for the state of the disk: what cannot be read is absent, what cannot be written is not kept, and a
    warning is logged once.

    Args:
        folder: where the files are; made when the first is written. None: nothing is kept.
        version: of everything that the data depends on beside the key. Entries of other versions are not found.
        limit_bytes: when more is kept, the entries longest unused are removed.
    """

    def __init__(self, folder: Path | None, version: str, *, limit_bytes: int = 1 << 30) -> None:
        self.folder = folder
        self.version = version
        self.limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._has_warned = False
        self._writes = folder is not None
        self._kept_bytes = 0
        self._puts = 0
        if folder is not None:
            try:
                _check_owner(folder, os.stat(folder))
            except FileNotFoundError:
                pass
            except OSError as error:
                self.folder, self._writes = None, False
                self._warn("used", error)

    def get(self, key: str) -> bytes | None:
        """The data last put under `key`, or None."""
        if self.folder is None:
            return None
        path = self._path(key)
        try:
            data = _unpack(read_trusted(path), self._identity(key))
            if data is None:
                _log.info("ignoring %s: damaged, or of another version", path)
            elif time.time() - os.stat(path).st_mtime > _DAY_S:
                os.utime(path)  # eviction goes by this time; once a day is often enough
            return data
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn("read", error)
            return None

    def put(self, key: str, data: bytes) -> None:
        """Keep `data` under `key`."""
        if self.folder is None or not self._writes:
            return
        content = _pack(self._identity(key), data)
        try:
            write_atomically(self._path(key), content)
            with self._lock:
                self._kept_bytes += len(content)
                if self._kept_bytes > self.limit_bytes or self._puts % _PUTS_BETWEEN_SCANS == 0:
                    self._kept_bytes = self._evict()
                self._puts += 1
        except OSError as error:
            self._writes = False
            self._warn("written", error)

    def size_bytes(self) -> int:
        """Bytes of all entries, those of other versions included."""
        return sum(status.st_size for _, status in self._files())

    def clear(self) -> None:
        """Remove every entry, of all versions; other files in the folder stay."""
        for path, _ in self._files():
            self._remove(path)
        with self._lock:
            self._kept_bytes = 0

    def _identity(self, key: str) -> bytes:
        return f"{self.version}\0{key}".encode()

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / (hashlib.blake2b(self._identity(key), digest_size=20).hexdigest() + SUFFIX)

    def _files(self) -> Iterator[tuple[str, os.stat_result]]:
        """Entries and temporary files with their states; files that vanish meanwhile are passed over."""
        if self.folder is None:
            return
        with contextlib.suppress(OSError), os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.endswith(SUFFIX) or (SUFFIX in entry.name and entry.name.endswith(".tmp")):
                    with contextlib.suppress(OSError):
                        yield entry.path, entry.stat(follow_symlinks=False)

    def _evict(self) -> int:
        """Remove abandoned temporary files, and above the limit the oldest entries until the rest is well below it.

        Returns:
            The bytes that remain.
        """
        entries = []
        for path, status in self._files():
            if not path.endswith(".tmp"):
                entries.append((status.st_mtime, status.st_size, path))
            elif time.time() - status.st_mtime > _TEMPORARY_LIFE_S:
                self._remove(path)
        remaining = sum(bytes_ for _, bytes_, _ in entries)
        if remaining <= self.limit_bytes:
            return remaining
        for _, bytes_, path in sorted(entries):
            if remaining <= self.limit_bytes * _KEPT_AFTER_EVICTION:
                break
            self._remove(path)
            remaining -= bytes_
        return remaining

    def _remove(self, path: str) -> None:
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass  # another process was faster
        except OSError as error:
            self._warn("removed", error)

    def _warn(self, what: str, error: OSError) -> None:
        if not self._has_warned:
            self._has_warned = True
            _log.warning("the object cache cannot be %s, kernels are compiled again: %s", what, error)


def _pack(identity: bytes, data: bytes) -> bytes:
    return _HEADER.pack(_MAGIC, FORMAT, len(identity), len(data), _checksum(identity, data)) + identity + data


def _unpack(content: bytes, identity: bytes) -> bytes | None:
    """The data, if the file is whole and of this identity."""
    if len(content) < _HEADER.size:
        return None
    magic, format_, identity_bytes, data_bytes, checksum = _HEADER.unpack_from(content)
    start = _HEADER.size + identity_bytes
    if magic != _MAGIC or format_ != FORMAT or len(content) != start + data_bytes:
        return None
    data = content[start:]
    if content[_HEADER.size : start] != identity or _checksum(identity, data) != checksum:
        return None
    return data


def _checksum(identity: bytes, data: bytes) -> bytes:
    state = hashlib.blake2b(identity, digest_size=32)
    state.update(data)
    return state.digest()
