"""The cases of the GPU suite with all that they are compared with, timed by a clock of the test's own: PyTorch runs on
the CPU here, our kernels in the interpreter."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from waterline.bench.gpu import blocks, convolutions, dense, graphs, grouped, inductor, networks, timing
from waterline.bench.gpu.cases import Case
from waterline.bench.gpu.measuring import Measuring
from waterline.bench.gpu.place import Place
from waterline.runtime.gpu.device import INTERPRETED, Device
from waterline.spec import ConvSpec


class OneSecond:
    """Runs the call, as a recording does, and says that it takes a second."""

    def __init__(self, call, times, device) -> None:
        call()

    def seconds(self) -> float:
        return 1.0


@pytest.fixture
def place(monkeypatch) -> Place:
    monkeypatch.setattr(timing, "Repeated", OneSecond)
    return Place(Device(torch.device("cpu"), replace(INTERPRETED, l2_bytes=1024)), can_time=True)


def measure(case: Case, place: Place, left_s: float = 1e3) -> list[dict[str, Any]]:
    found = Measuring(place, lambda begun: None, lambda: left_s, lambda case, variant: "").case(case)
    assert all(
        record["warm_ms"] == record["cold_ms"] == 1e3 for record in found if not {"error", "left_out"} & set(record)
    )
    ours = [record for record in found if record["engine"] == "waterline" and "error" not in record]
    assert all(record["disagreement"] <= 1 for record in ours)
    return found


def engines(found: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((record["engine"], record["algorithm"]) for record in found))


def test_a_layer_beside_cudnn_and_inductor(place):
    (case,) = dense.bf16(place)
    found = measure(case, place)
    assert engines(found)[-2:] == [("cudnn", "channels_last"), ("inductor", "max-autotune")]
    assert not any("error" in record for record in found)
    assert case.x.shape == (1, 5, 4, 16)  # drawn anew: what was there has been let go
    late = measure(case, place, left_s=1.0)
    assert late[-1]["left_out"] == "it may take 25 s"
    assert not any("left_out" in record for record in late[:-1])


def test_exact_layers_are_measured_in_both_layouts(place):
    (case,) = dense.exact(place)
    found = measure(case, place)
    assert engines(found)[-2:] == [("cudnn", "channels_last"), ("cudnn", "contiguous")]
    assert {record["dtype"] for record in found} == {"f32"}


@pytest.mark.parametrize(("stride", "batch"), [(1, 1), (2, 3)])
def test_gradients_beside_pytorch(place, stride, batch):
    spec = ConvSpec(batch, 16, 5, 4, 32, 3, 3, stride=(stride, stride), pad=(1, 1, 1, 1), groups=2)
    for which in (grouped.DATA, grouped.WEIGHTS):
        found = measure(grouped.Gradient(spec, "f16", place, which), place)
        assert engines(found) == [("waterline", "grouped"), ("cudnn", "channels_last")]
        assert {record["data"] for record in found} == {which}


def test_a_layer_that_a_gradient_does_not_serve_says_so(place):
    spec = ConvSpec(1, 128, 4, 4, 128, 3, 3, pad=(1, 1, 1, 1), groups=2)
    case = grouped.Gradient(spec, "f16", place, grouped.DATA)
    assert list(case.launches()) == []
    ours, theirs = measure(case, place)
    assert ours["error"].startswith("Refused")
    assert "error" not in theirs


def test_blocks_beside_pytorch_and_inductor(place, monkeypatch):
    convfirst, convnext, _ = blocks.cases(place)
    convfirst._inductor = "reduce-overhead"
    found = measure(convfirst, place)
    assert [algorithm for _, algorithm in engines(found)] == [
        "fused", "layer by layer", "channels_last", "reduce-overhead"
    ]  # fmt: skip
    assert [record["steps"] for record in found[:2]] == [1, 3]
    assert found[0]["kernels"] == {"block_fusion": 1}
    monkeypatch.setattr(graphs, "is_fused", lambda plan: False)
    refused, *others = measure(convnext, place, left_s=1.0)
    assert refused["error"].startswith("Refused: convnext block 16x4x4: ")
    assert [record["engine"] for record in others] == ["waterline", "torch", "inductor"]


def test_a_network_beside_pytorch(place):
    (case,) = networks.cases(place)
    found = measure(case, place)
    assert [algorithm for _, algorithm in engines(found)] == ["plan", "fused", "layer by layer", "channels_last"]
    assert found[0]["flops"] > 0
    assert found[1]["kernels"]["block_fusion"] == 1
    assert "block_fusion" not in found[2]["kernels"]


def test_a_wrong_network_is_found(place, monkeypatch):
    (case,) = networks.cases(place)
    run = graphs.GpuProgram.run
    monkeypatch.setattr(graphs.GpuProgram, "run", lambda self, inputs: [1.1 * each for each in run(self, inputs)])
    assert case._disagreement("plan") > 1
    monkeypatch.setattr(graphs.GpuProgram, "run", lambda self, inputs: [each * torch.nan for each in run(self, inputs)])
    assert case._disagreement("plan") == float("inf")


def test_a_wrong_layer_is_found(place):
    (case,) = dense.exact(place)
    case.y.zero_()
    assert case._disagreement(1.0) > 1
    case.y[0, 0, 0, 0] = torch.nan
    assert case._disagreement(1.0) == float("inf")


def test_a_wrong_weight_gradient_is_found(place):
    spec = ConvSpec(2, 16, 6, 6, 16, 3, 3, pad=(1, 1, 1, 1), groups=2)
    case = grouped.Gradient(spec, "f16", place, grouped.WEIGHTS)
    expected, _ = case.truth
    case.result.copy_(expected)
    assert case._disagreement() <= 1
    case.result[0, 0, 0, 0] += 0.02 * float(expected.std())
    assert case._disagreement() > 1


def test_only_ends_of_large_batches_are_checked():
    images = torch.arange(40.0)[:, None]
    assert convolutions.ends(images).shape[0] == 2 * convolutions.CHECKED
    assert convolutions.ends(images)[-1] == 39
    assert torch.equal(convolutions.ends(images[:16]), images[:16])


def test_inductors_modes_are_pytorchs():
    known = torch._inductor.list_mode_options()
    assert set(inductor.MODES.values()) <= set(known)
    assert not any("triton.cudagraphs" in known[mode] for mode in inductor.MODES.values())
