"""A Triton function with everything fixed but its tensors and sizes: what is launched, and compiled ahead of time."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.errors import TritonError

WARP_THREADS = 32
ALIGNMENT_BYTES = 16  # of tensors: what vector accesses and bulk copies want
# What a launch raises where a kernel cannot be compiled, or there is no memory for it.
KERNEL_ERRORS: tuple[type[Exception], ...] = (RuntimeError, TritonError)
_TORCH_TYPES = {
    "f32": torch.float32,
    "tf32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "i32": torch.int32,
}
_TYPES = {"f32": "fp32", "tf32": "fp32", "f16": "fp16", "bf16": "bf16", "i32": "i32"}


def is_interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on tensors of the CPU."""
    return bool(triton.knobs.runtime.interpret)


def triton_version() -> str:
    return str(triton.__version__)


def _allocate(size_bytes: int, alignment_bytes: int, stream: int | None) -> torch.Tensor:
    """Memory on the current device for the tensor descriptors that a launch makes; PyTorch aligns it to 512 bytes."""
    return torch.empty(size_bytes, dtype=torch.int8, device="cuda")


@dataclass(frozen=True)
class GpuLaunch:
    """One launch of a kernel.

    Attributes:
        function: decorated with `triton.jit`.
        grid: blocks along three axes.
        arguments: what the function is given beside its constants, in order: names of tensors, or whole numbers.
        constants: its compile-time arguments.
        types: of the tensors that are not of the layer's own precision, by name: "f32", "i32".
        warps: of a block. stages: loads that are under way in its loops.
    """

    function: Any
    grid: tuple[int, ...]
    arguments: tuple[str | int, ...]
    constants: Mapping[str, Any]
    types: Mapping[str, str] = field(default_factory=dict)
    warps: int = 4
    stages: int = 2

    def run(self, tensors: Mapping[str, Any]) -> None:
        """Starts it on tensors of PyTorch, by name."""
        if not is_interpreted():
            triton.set_allocator(_allocate)  # remembered for each thread, and autograd has threads of its own
        given = [tensors[each] if isinstance(each, str) else each for each in self.arguments]
        self.function[self.grid](*given, **self.constants, num_warps=self.warps, num_stages=self.stages)

    def warm(self, precision: str) -> None:
        """Compiles it for this process's GPU without starting it, as `run` would on aligned tensors, and keeps it for
        that.

        Args:
            precision: of the layer's own tensors.
        """
        given = [
            _TORCH_TYPES[self.types.get(each, precision)] if isinstance(each, str) else each for each in self.arguments
        ]
        options = {"num_warps": self.warps, "num_stages": self.stages}
        self.function.warmup(*given, grid=self.grid, **self.constants, **options)

    def compile(self, precision: str, capability: int) -> Compiled:
        """Compiles ahead of time, with no such processor present.

        Args:
            precision: of the layer's own tensors. capability: 80 is sm_80.
        """
        places = {name: place for place, name in enumerate(self.function.arg_names)}
        names = [name for name in places if name not in self.constants]
        signature = dict.fromkeys(places, "constexpr")
        aligned: dict[tuple[int, ...], list[list[Any]]] = {}
        for name, argument in zip(names, self.arguments, strict=True):
            if isinstance(argument, str):
                signature[name] = "*" + _TYPES[self.types.get(argument, precision)]
            else:
                signature[name] = "i32"
            if isinstance(argument, str) or argument % ALIGNMENT_BYTES == 0:
                aligned[places[name],] = [["tt.divisibility", ALIGNMENT_BYTES]]
        source = ASTSource(self.function, signature, constexprs=dict(self.constants), attrs=aligned)
        options = {"num_warps": self.warps, "num_stages": self.stages}
        made = triton.compile(source, target=GPUTarget("cuda", capability, WARP_THREADS), options=options)
        return Compiled(made.asm["ptx"], made.asm["cubin"], int(made.metadata.shared))


@dataclass(frozen=True)
class LibraryCall:
    """A call of PyTorch's own operators, where kernels of ours do not serve: launched, recorded and timed as these are.

    Attributes:
        function: takes tensors and returns nothing. It synchronises nothing, so that a CUDA graph can record it.
        arguments: names of tensors.
    """

    function: Callable[..., None]
    arguments: tuple[str, ...]

    def run(self, tensors: Mapping[str, Any]) -> None:
        self.function(*(tensors[name] for name in self.arguments))


GpuCall = GpuLaunch | LibraryCall


@dataclass(frozen=True)
class Compiled:
    """PTX and machine code of a kernel, and the bytes of shared memory that a block takes."""

    ptx: str
    cubin: bytes
    shared_bytes: int

    @property
    def matrix_instructions(self) -> frozenset[str]:
        """Kinds of matrix products in it: "mma" (a warp's), "wgmma" (of four warps, asynchronous)."""
        kinds = {"mma": r"\bmma\.sync", "wgmma": r"\bwgmma\.mma_async"}
        return frozenset(name for name, pattern in kinds.items() if re.search(pattern, self.ptx))

    @property
    def has_bulk_copies(self) -> bool:
        return "cp.async.bulk.tensor" in self.ptx

    def usage(self) -> Usage:
        """What the assembler's tools say of the machine code."""
        tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(self.cubin)
            file.flush()
            command = [str(tool), "--dump-resource-usage", file.name]
            text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        numbers = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", text)}
        return Usage(numbers["REG"], numbers["STACK"] + numbers["LOCAL"])


@dataclass(frozen=True)
class Usage:
    """Registers of a thread, and the bytes of each thread that lie in memory because registers were short."""

    registers: int
    spilled_bytes: int


__all__ = [
    "KERNEL_ERRORS",
    "Compiled",
    "GpuCall",
    "GpuLaunch",
    "LibraryCall",
    "Usage",
    "is_interpreted",
    "triton_version",
]
