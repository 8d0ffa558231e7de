"""Kernels as callable addresses: from this process, else from the object cache, else compiled now."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable

from waterline.codegen.cpu.jit import Library, compile_object
from waterline.codegen.cpu.kernel import Kernel
from waterline.machine import Machine
from waterline.runtime.cache import ObjectCache

_loaded: dict[str, tuple[Library, int]] = {}
_lock = threading.RLock()
# Taken before the lock of `codegen.cpu.jit` (handlers run in reverse order), as `load_kernels` takes them.
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


def load_kernels(
    kernels: Iterable[Kernel],
    machine: Machine,
    cache: ObjectCache,
    on_compile: Callable[[int, int], None] | None = None,
) -> dict[Kernel, int]:
    """Kernel -> address. `on_compile(done, total)` is told of kernels that neither process nor cache had."""
    unique = list(dict.fromkeys(kernels))
    keys = {kernel: kernel.key(machine) for kernel in unique}
    with _lock:
        missing = [kernel for kernel in unique if keys[kernel] not in _loaded]
        codes = {keys[kernel]: cache.get(keys[kernel]) for kernel in missing}
        to_compile = [kernel for kernel in missing if codes[keys[kernel]] is None]
        for done, kernel in enumerate(to_compile):
            if on_compile is not None:
                on_compile(done, len(to_compile))
            key = keys[kernel]
            code = compile_object(kernel.emit(key, machine), machine)
            cache.put(key, code)
            codes[key] = code
        if codes:
            library = Library([code for code in codes.values() if code is not None], codes)
            _loaded.update({key: (library, library[key]) for key in codes})
        return {kernel: _loaded[key][1] for kernel, key in keys.items()}


def is_loaded(kernel: Kernel, machine: Machine) -> bool:
    with _lock:
        return kernel.key(machine) in _loaded
