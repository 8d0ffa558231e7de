"""Analyses to draw: of layers whose numbers are chosen, so that a drawing can be held against them."""

from __future__ import annotations

from dataclasses import dataclass

from waterline.analysis import Analysis, BlockAnalysis, Causes, LayerAnalysis, PhaseTime

PEAK = 1e11
BYTES_PER_S = {"l3": 2e10, "dram": 1e10}  # ridges at 5 and 10 operations a byte
COMMIT = "0123456789ab"


@dataclass(frozen=True)
class Layer:
    """In Mflop, kbyte and microseconds, which a layer of 1 Mflop takes 10 of at peak."""

    name: str
    mflops: float
    kbytes: float
    time_us: float
    algorithm: str = "direct_gemm"
    executed: float = 1.0  # times the direct algorithm's
    phases: tuple[tuple[str, float], ...] = ()
    shape: str = ""


# Compute bound at 80 %; memory bound at its bound, 50 %; Winograd's at 150 %, 60 % executed; no operations.
LAYERS = (
    Layer("conv1", 8, 200, 100),
    Layer("conv2", 4, 800, 80, "depthwise"),
    Layer("conv3", 12, 300, 80, "winograd:f4x4", 0.4, (("input", 10), ("gemm", 60), ("output", 10))),
    Layer("pool", 0, 400, 40, "Pool", 0),
)


def analysis(
    layers: tuple[Layer, ...] = LAYERS, network: str = "net", machine: str = "a machine", block: int = 2
) -> Analysis:
    """A network with blocks of so many layers, whose fused bounds are their operations at peak."""
    made = tuple(_layer(each, i // block) for i, each in enumerate(layers))
    blocks = []
    for begin in range(0, len(made), block):
        members = made[begin : begin + block]
        flops = sum(each.flops for each in members)
        blocks.append(
            BlockAnalysis(
                name=f"block of {members[0].name}",
                layers=tuple(range(begin, begin + len(members))),
                flops=flops,
                bytes=sum(each.bytes for each in members),
                time_ns=sum(each.time_ns for each in members),
                bound_ns=sum(each.bound_ns for each in members),
                fused_bytes=1,
                fused_bound_ns=1e9 * flops / PEAK,
                peak_flops_per_s=PEAK,
                executed_flops=sum(each.executed_flops for each in members),
                causes=Causes.sum(each.causes for each in members),
            )
        )
    return Analysis(
        network=network,
        machine=machine,
        batch=3,
        threads=2,
        is_measured=True,
        peak_flops_per_s=PEAK,
        bytes_per_s=BYTES_PER_S,
        time_ns=sum(each.time_ns for each in made),
        layers=made,
        blocks=tuple(blocks),
    )


def _layer(each: Layer, block: int) -> LayerAnalysis:
    flops, moved, time_ns = round(each.mflops * 1e6), round(each.kbytes * 1e3), each.time_us * 1e3
    arithmetic_ns, memory_ns = each.executed * flops * 1e9 / PEAK, moved * 1e9 / BYTES_PER_S["dram"]
    return LayerAnalysis(
        name=each.name,
        shape=each.shape or each.name,
        algorithm=each.algorithm,
        block=block,
        flops=flops,
        executed_flops=each.executed * flops,
        bytes=moved,
        bound_ns=max(flops * 1e9 / PEAK, memory_ns),
        time_ns=time_ns,
        predicted_ns=time_ns,
        peak_flops_per_s=PEAK,
        causes=Causes.of(time_ns, arithmetic_ns, memory_ns),
        phases=tuple(PhaseTime(name, 1e3 * time_us, 0.0, 0.0, 0.0) for name, time_us in each.phases),
    )
