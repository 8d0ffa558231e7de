"""Loops that show what a core can do: multiply-adds that touch registers only, and loads that do nothing else.

Both read values that LLVM cannot know and carry every result to the end, so no optimiser may shorten them. Accumulators
start from different memory: equal ones would be merged into one.
"""

from __future__ import annotations

import ctypes
import threading

import numpy as np

from waterline.codegen.cpu.jit import Library, compile_object
from waterline.machine import Machine

PEAK = "waterline_probe_peak"  # void (ptr data, i64 iterations)
READ = "waterline_probe_read"  # void (ptr buffer, i64 bytes, i64 repeats, ptr sink)

OPERATIONS = 48  # vector operations in one iteration of the peak loop: the loop's own two are hidden behind them
LOADS = 8  # vector loads in one iteration of the read loop


def accumulators(machine: Machine) -> int:
    """Independent sums: enough to cover ports times latency, few enough to stay in registers with two operands."""
    return 24 if machine.vector_registers == 32 else 12


def flops_per_iteration(machine: Machine) -> int:
    """f32 operations of one iteration of the peak loop."""
    return OPERATIONS * machine.lanes() * (2 if machine.has_fma else 1)


def read_step_bytes(machine: Machine) -> int:
    """What a read buffer's size must be a multiple of."""
    return LOADS * machine.vector_bytes


def emit_probes(machine: Machine) -> str:
    """LLVM IR of both probes at the machine's vector width."""
    return _emit_peak(machine) + _emit_read(machine)


def _emit_peak(machine: Machine) -> str:
    """Sums `a += x * y`; without fused multiply-add half of the sums are products, so that both units are busy.

    `data` holds x, y and the accumulators' first values, one vector each; the last values go back to their places.
    """
    count = accumulators(machine)
    vector = f"<{machine.lanes()} x float>"
    lines = [
        f"declare {vector} @llvm.fma.v{machine.lanes()}f32({vector}, {vector}, {vector})",
        f"define void @{PEAK}(ptr %data, i64 %iterations) {{",
        "entry:",
    ]
    for index in range(count + 2):
        lines += [
            f"  %at{index} = getelementptr {vector}, ptr %data, i64 {index}",
            f"  %first{index} = load {vector}, ptr %at{index}, align 4",
        ]
    lines += ["  br label %loop", "loop:", "  %i = phi i64 [0, %entry], [%next, %loop]"]
    current = [f"%a{index}" for index in range(count)]
    last = [f"%v{OPERATIONS - count + index}" for index in range(count)]
    for index in range(count):
        lines.append(f"  {current[index]} = phi {vector} [%first{index + 2}, %entry], [{last[index]}, %loop]")
    for step in range(OPERATIONS):
        index = step % count
        a = current[index]
        if machine.has_fma:
            call = f"{vector} %first0, {vector} %first1, {vector} {a}"
            lines.append(f"  %v{step} = call {vector} @llvm.fma.v{machine.lanes()}f32({call})")
        elif index % 2:
            lines.append(f"  %v{step} = fadd {vector} {a}, %first1")
        else:
            lines.append(f"  %v{step} = fmul {vector} {a}, %first0")
        current[index] = f"%v{step}"
    lines += [
        "  %next = add i64 %i, 1",
        "  %more = icmp slt i64 %next, %iterations",
        "  br i1 %more, label %loop, label %exit",
        "exit:",
    ]
    lines += [f"  store {vector} {value}, ptr %at{index + 2}, align 4" for index, value in enumerate(current)]
    return "\n".join([*lines, "  ret void", "}", ""])


def _emit_read(machine: Machine) -> str:
    """Folds the buffer's vectors together with exclusive or, which costs one cycle on every machine."""
    width = machine.vector_bytes
    vector = f"<{width // 4} x i32>"
    lines = [
        f"define void @{READ}(ptr %buffer, i64 %bytes, i64 %repeats, ptr %sink) {{",
        "entry:",
        "  br label %pass",
        "pass:",
        "  %turn = phi i64 [0, %entry], [%turn.next, %pass.end]",
        *(f"  %p{i} = phi {vector} [zeroinitializer, %entry], [%v{i}, %pass.end]" for i in range(LOADS)),
        "  br label %loop",
        "loop:",
        "  %at = phi i64 [0, %pass], [%at.next, %loop]",
        *(f"  %a{i} = phi {vector} [%p{i}, %pass], [%v{i}, %loop]" for i in range(LOADS)),
    ]
    for index in range(LOADS):
        lines += [
            f"  %offset{index} = add i64 %at, {index * width}",
            f"  %from{index} = getelementptr i8, ptr %buffer, i64 %offset{index}",
            f"  %x{index} = load {vector}, ptr %from{index}, align {width}",
            f"  %v{index} = xor {vector} %a{index}, %x{index}",
        ]
    lines += [
        f"  %at.next = add i64 %at, {LOADS * width}",
        "  %more = icmp slt i64 %at.next, %bytes",
        "  br i1 %more, label %loop, label %pass.end",
        "pass.end:",
        "  %turn.next = add i64 %turn, 1",
        "  %again = icmp slt i64 %turn.next, %repeats",
        "  br i1 %again, label %pass, label %exit",
        "exit:",
    ]
    for index in range(LOADS):
        lines += [
            f"  %to{index} = getelementptr {vector}, ptr %sink, i64 {index}",
            f"  store {vector} %v{index}, ptr %to{index}, align 4",
        ]
    return "\n".join([*lines, "  ret void", "}", ""])


class Probes:
    """Both probes, compiled for the machine that runs. The calls release the GIL."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._library = Library([compile_object(emit_probes(machine), machine)], [PEAK, READ])
        word, pointer = ctypes.c_int64, ctypes.c_void_p
        self._peak = ctypes.CFUNCTYPE(None, pointer, word)(self._library[PEAK])
        self._read = ctypes.CFUNCTYPE(None, pointer, word, word, pointer)(self._library[READ])

    def multiply_add(self, iterations: int) -> int:
        """Runs the peak loop at least once; returns the number of its f32 operations."""
        iterations = max(1, iterations)
        data = np.empty((accumulators(self.machine) + 2, self.machine.lanes()), np.float32)
        data[0], data[1] = 1.0, 2.0**-30  # neither overflow nor denormals, however long it runs
        data[2:] = np.arange(1, len(data) - 1, dtype=np.float32)[:, None]
        self._peak(data.ctypes.data, iterations)
        return iterations * flops_per_iteration(self.machine)

    def read(self, address: int, bytes_: int, repeats: int) -> np.ndarray:
        """Reads `bytes_` bytes at `address` (both multiples of the step and the width) `repeats` times, at least once.

        Returns:
            The exclusive or of all vectors read, as 32-bit words of one vector.
        """
        if bytes_ <= 0 or bytes_ % read_step_bytes(self.machine) or address % self.machine.vector_bytes:
            raise ValueError(f"{bytes_} bytes at {address:#x} are not whole steps of {read_step_bytes(self.machine)}")
        sink = np.empty((LOADS, self.machine.vector_bytes // 4), np.uint32)
        self._read(address, bytes_, repeats, sink.ctypes.data)
        return np.bitwise_xor.reduce(sink, axis=0)


_loaded: dict[tuple[str, str, str], Probes] = {}
_lock = threading.Lock()


def load_probes(machine: Machine) -> Probes:
    """The probes of `machine`, compiled once in a process. It must be the machine that runs, or a restriction of it."""
    with _lock:
        key = machine.target()  # vector width and registers follow from the features in it
        if key not in _loaded:
            _loaded[key] = Probes(machine)
        return _loaded[key]
