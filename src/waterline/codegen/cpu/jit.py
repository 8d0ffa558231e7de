"""From LLVM IR to object code, and from object code to callable addresses.

`compile_object` is a pure function of its arguments and needs no matching processor, so tests emit for every machine
of the catalogue. `Library` links objects for the processor that runs.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterable

import llvmlite.binding as llvm

from waterline.machine import Machine

_lock = threading.Lock()
_names = itertools.count()
_jit: llvm.LLJIT | None = None
_initialized = False

# A fork waits until no thread is inside LLVM: the child could neither finish that work nor begin its own.
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


def initialize() -> None:
    global _initialized
    if not _initialized:
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
        _initialized = True


def target_machine(machine: Machine) -> llvm.TargetMachine:
    """LLVM's code generator for `machine`: described by features only, never by a processor's name."""
    initialize()
    triple, cpu, features = machine.target()
    return llvm.Target.from_triple(triple).create_target_machine(
        cpu=cpu, features=features, opt=3, reloc="pic", codemodel="small", jit=False
    )


def optimize(ir_text: str, machine: Machine) -> tuple[llvm.ModuleRef, llvm.TargetMachine]:
    target = target_machine(machine)
    module = llvm.parse_assembly(ir_text)
    module.triple = target.triple
    module.data_layout = str(target.target_data)
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    # The emitters unroll and vectorise on purpose; LLVM doing it again costs compile time and registers.
    options.loop_vectorization = False
    options.slp_vectorization = False
    options.loop_unrolling = False
    options.loop_interleaving = False
    passes = llvm.create_pass_builder(target, options).getModulePassManager()
    passes.run(module, llvm.create_pass_builder(target, options))
    return module, target


def compile_object(ir_text: str, machine: Machine) -> bytes:
    """Object code of a module."""
    with _lock:
        module, target = optimize(ir_text, machine)
        return target.emit_object(module)


def compile_assembly(ir_text: str, machine: Machine) -> str:
    """The assembly of the same code, for tests and readers."""
    with _lock:
        module, target = optimize(ir_text, machine)
        return target.emit_assembly(module)


class Library:
    """Objects linked into this process. The addresses are valid as long as the library is referenced.

    Args:
        objects: object files' bytes, compiled for this processor.
        exports: names of functions whose addresses are wanted.
    """

    def __init__(self, objects: Iterable[bytes], exports: Iterable[str]) -> None:
        global _jit
        initialize()
        builder = llvm.JITLibraryBuilder()
        for data in objects:
            builder.add_object_img(data)
        for name in exports:
            builder.export_symbol(name)
        builder.add_current_process()
        with _lock:
            if _jit is None:
                _jit = llvm.create_lljit_compiler()
            self._tracker = builder.link(_jit, f"waterline{next(_names)}")

    def __getitem__(self, name: str) -> int:
        return int(self._tracker[name])
