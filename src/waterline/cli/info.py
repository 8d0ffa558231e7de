"""`waterline info`: the machine as it was detected and measured."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

from waterline.api import environment
from waterline.api.options import parse_device
from waterline.cli.common import Progress, add_json, print_json
from waterline.machine import Machine
from waterline.machine.gpu import PRECISIONS
from waterline.runtime.cache import default_cache_dir
from waterline.runtime.calibration import calibrate

PACKAGES = (
    "numpy",
    "llvmlite",
    "onnx",
    "torch",
    "triton",
    "onnxruntime",
    "openvino",
    "ncnn",
    "rich",
    "pillow",
    "scikit-learn",
)


def configure(parser: argparse.ArgumentParser) -> None:
    add_json(parser)
    parser.add_argument("--measure", action="store_true", help="measure peak and bandwidth again (about a second)")
    parser.add_argument("--device", default="cpu", metavar="D", help="cuda, cuda:1, ...: describe this GPU as well")


def execute(arguments: argparse.Namespace) -> int:
    progress = Progress()
    machine = environment.machine()
    folder = default_cache_dir(os.environ)
    if arguments.measure:
        machine = calibrate(machine, folder, force=True, on_progress=lambda text: progress.show(f"measuring {text}"))
        progress.clear()
    facts = describe(machine, folder)
    if arguments.device != "cpu":
        facts["gpu"] = describe_gpu(arguments.device)
    if arguments.json:
        print_json(facts)
    else:
        print(to_text(facts, machine))
    return 0


def describe(machine: Machine, folder: Path | None) -> dict[str, Any]:
    return {
        "machine": machine.to_dict(),
        "isa": machine.isa,
        "vector_bytes": machine.vector_bytes,
        "peak_flops_per_s": {str(threads): machine.peak(threads) for threads in range(1, machine.cores + 1)},
        "bandwidth_bytes_per_s": {
            level: {str(threads): machine.bytes_per_s(level, threads) for threads in range(1, machine.cores + 1)}
            for level in ("l2", "l3", "dram")
        },
        "cache_folder": None if folder is None else str(folder),
        "versions": versions(),
    }


def describe_gpu(device: str) -> dict[str, Any]:
    """The GPU with its measured rates. Raises InvalidArgument where there is none of this name."""
    name = parse_device(device)
    from waterline.api import gpu

    found = gpu.engine(name, "f32").device.gpu
    peaks = {precision: found.peak(precision) for precision in PRECISIONS}
    return {**found.to_dict(), "peak_flops_per_s": peaks}


def versions() -> dict[str, str | None]:
    """Package -> version, None where it is not installed."""
    found: dict[str, str | None] = {
        "waterline": importlib.metadata.version("waterline"),
        "python": platform.python_version(),
    }
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def to_text(facts: dict[str, Any], machine: Machine) -> str:
    installed = [f"{package} {version}" for package, version in facts["versions"].items() if version]
    missing = [package for package, version in facts["versions"].items() if not version]
    rates = [("1 core", 1)] + ([(f"{machine.cores} cores", machine.cores)] if machine.cores > 1 else [])
    lines = [
        ("machine", f"{machine.name}, {machine.arch} {machine.system}"),
        ("cores", f"{machine.cores} physical, that this process may use"),
        ("vectors", f"{machine.isa}: {8 * machine.vector_bytes} bits, {machine.vector_registers} registers"),
        ("features", " ".join(sorted(machine.features))),
        ("caches", f"L1 {_kib(machine.l1d_bytes)}, L2 {_kib(machine.l2_bytes)} a core, {_l3(machine)}"),
        ("peak", ", ".join(f"{machine.peak(n) / 1e9:.1f} GFLOP/s {what}" for what, n in rates) + " (f32)"),
        ("bandwidth", "; ".join(f"{what}: {_bandwidths(machine, n)}" for what, n in rates)),
        ("provenance", machine.provenance),
        *_gpu_lines(facts.get("gpu")),
        ("cache folder", facts["cache_folder"] or "none"),
        ("versions", ", ".join(installed)),
    ]
    if missing:
        lines.append(("not installed", ", ".join(missing)))
    return "\n".join(f"{name:<14}{value}" for name, value in lines)


def _gpu_lines(gpu: dict[str, Any] | None) -> list[tuple[str, str]]:
    if gpu is None:
        return []
    peaks = ", ".join(f"{name} {peak / 1e12:.1f}" for name, peak in gpu["peak_flops_per_s"].items())
    capability = ".".join(map(str, gpu["capability"]))
    memory = f"{gpu['shared_bytes'] >> 10} KiB shared, L2 {gpu['l2_bytes'] >> 20} MiB"
    return [
        ("gpu", f"{gpu['name']}, compute capability {capability}, {gpu['multiprocessors']} multiprocessors, {memory}"),
        ("gpu peak", f"{peaks} TFLOP/s; memory {gpu['memory_bytes_per_s'] / 1e9:.0f} GB/s; {gpu['provenance']}"),
    ]


def _bandwidths(machine: Machine, threads: int) -> str:
    levels = [("L2", "l2"), ("L3", "l3")] if machine.l3_bytes else [("L2", "l2")]
    return ", ".join(
        f"{name} {machine.bytes_per_s(level, threads) / 1e9:.1f} GB/s" for name, level in [*levels, ("DRAM", "dram")]
    )


def _kib(bytes_: int) -> str:
    return f"{bytes_ >> 20} MiB" if bytes_ >= 1 << 20 and bytes_ % (1 << 20) == 0 else f"{bytes_ >> 10} KiB"


def _l3(machine: Machine) -> str:
    return f"L3 {_kib(machine.l3_bytes)} for {machine.l3_cores} cores" if machine.l3_bytes else "no L3"
