"""GPUs of the process, their kept rates, packed weights, and programs' memory. The driver is made up."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from algorithms import block_networks
from algorithms.blocks import Net

from waterline.errors import InvalidArgument
from waterline.graph import Graph
from waterline.graph.ops import Conv, ConvTranspose
from waterline.machine.gpu import H200, PRECISIONS
from waterline.planner import PlanOptions, plan
from waterline.planner.gpu import GpuTarget
from waterline.runtime.gpu import device, timing
from waterline.runtime.gpu.device import INTERPRETED, MAX_AGE_S, Device, calibrated, describe, find_device
from waterline.runtime.gpu.program import GpuProgram
from waterline.runtime.gpu.weights import GpuWeights

CPU = torch.device("cpu")
RATES = {name: 1e12 * (i + 1) for i, name in enumerate(PRECISIONS)} | {"memory": 4e12}
REPORTED = {
    "name": "NVIDIA Made Up",
    "major": 9,
    "minor": 0,
    "multi_processor_count": 132,
    "shared_memory_per_block_optin": 232448,
    "L2_cache_size": 50 << 20,
    "clock_rate": 1_980_000,
    "memory_clock_rate": 3_201_000,
    "memory_bus_width": 6144,
}


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Two GPUs of one kind, of which the second is the current one."""
    facts = dict(REPORTED)
    monkeypatch.setattr(device, "is_interpreted", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(**facts))
    describe.cache_clear()
    return facts


# ---- finding --------------------------------------------------------------------------------------------------------
def test_the_interpreter_is_the_cpu() -> None:
    for name in ("cuda", "cuda:0", "cuda:7"):
        found = find_device(name)
        assert found == Device(CPU, INTERPRETED)
        assert found.is_interpreted


def test_what_the_driver_reports(driver: dict[str, object]) -> None:
    found = find_device("cuda:0")
    assert found.torch_device == torch.device("cuda", 0)
    assert not found.is_interpreted
    gpu = found.gpu
    assert (gpu.name, gpu.capability, gpu.multiprocessors) == ("NVIDIA Made Up", (9, 0), 132)
    assert (gpu.shared_bytes, gpu.l2_bytes, gpu.clock_hz) == (232448, 50 << 20, 1.98e9)
    assert gpu.memory_bytes_per_s == pytest.approx(4.917e12, rel=1e-3)
    assert gpu.provenance == "reported by the driver"
    assert find_device("cuda").torch_device.index == 1


def test_gpus_that_are_not_there(driver: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidArgument, match=r"'cuda:2': there are 2 GPUs.*from cuda:0"):
        find_device("cuda:2")
    for name in ("cuda:", "cuda:-1", "cuda:a", "gpu", "cuda:1 "):
        with pytest.raises(InvalidArgument, match="is not known"):
            find_device(name)
    driver |= {"major": 7, "minor": 5}
    with pytest.raises(InvalidArgument, match=r"NVIDIA Made Up has compute capability 7\.5.*8\.0"):
        find_device("cuda:0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InvalidArgument, match="finds no NVIDIA GPU"):
        find_device("cuda")


# ---- rates ----------------------------------------------------------------------------------------------------------
@pytest.fixture
def here(driver: dict[str, object]) -> Device:
    return find_device("cuda:0")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Device]:
    """Grows with each measurement, whose number the rate of memory is a multiple of."""
    done: list[Device] = []

    def measure(given: Device) -> dict[str, float]:
        done.append(given)
        return RATES | {"memory": 1e12 * len(done)}

    monkeypatch.setattr(device, "measure_rates", measure)
    return done


def only_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def test_rates_are_measured_once_and_kept(here: Device, measured: list[Device], tmp_path: Path) -> None:
    first = calibrated(here, tmp_path, "1.0")
    assert first.torch_device == here.torch_device
    assert first.gpu.memory_bytes_per_s == 1e12
    assert [first.gpu.peak(name) for name in PRECISIONS] == [RATES[name] for name in PRECISIONS]
    assert first.gpu.provenance.startswith("measured 2")
    assert calibrated(here, tmp_path, "1.0") == first
    assert measured == [here]
    assert only_file(tmp_path).stat().st_mode & 0o022 == 0


def test_each_kind_of_gpu_has_its_own(here: Device, measured: list[Device], tmp_path: Path, driver: dict) -> None:
    calibrated(here, tmp_path, "1.0")
    describe.cache_clear()
    driver["name"] = "NVIDIA Other"
    other = find_device("cuda:0")
    assert calibrated(other, tmp_path, "1.0").gpu.memory_bytes_per_s == 2e12
    assert calibrated(here, tmp_path, "1.0").gpu.memory_bytes_per_s == 1e12
    assert len(measured) == 2


def test_the_interpreter_has_no_rates(measured: list[Device], tmp_path: Path) -> None:
    assert calibrated(Device(CPU, INTERPRETED), tmp_path, "1.0") == Device(CPU, INTERPRETED)
    assert measured == []
    assert list(tmp_path.iterdir()) == []


def test_without_a_folder(here: Device, measured: list[Device]) -> None:
    for _ in range(2):
        calibrated(here, None, "1.0")
    assert len(measured) == 2


def test_where_nothing_can_be_written(
    here: Device, measured: list[Device], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "a file"
    folder.write_text("")
    with caplog.at_level(logging.WARNING):
        assert calibrated(here, folder, "1.0").gpu.memory_bytes_per_s == 1e12
    assert "measured again" in caplog.text


def changed(field: str, value: object) -> Callable[[dict], object]:
    return lambda record: {name: {**entry, field: value} for name, entry in record.items()}


REASONS: dict[str, Callable[[dict], object]] = {
    "another version": lambda record: {
        name: {**e, "key": [*e["key"][:2], "0.9", e["key"][3]]} for name, e in record.items()
    },
    "too old": changed("time_s", time.time() - MAX_AGE_S - 60),
    "of the future": changed("time_s", time.time() + 3600),
    "no time": changed("time_s", None),
    "a time in words": changed("time_s", "now"),
    "no rates": changed("rates", None),
    "too few rates": changed("rates", {"memory": 1e12}),
    "rates in words": changed("rates", dict.fromkeys(RATES, "fast")),
    "rates of nothing": changed("rates", dict.fromkeys(RATES, 0.0)),
    "rates without end": changed("rates", dict.fromkeys(RATES, float("inf"))),
    "an entry that is none": lambda record: dict.fromkeys(record, 3),
    "a list": lambda record: [record],
    "null": lambda record: None,
}


@pytest.mark.parametrize("reason", REASONS)
def test_rates_are_measured_again(reason: str, here: Device, measured: list[Device], tmp_path: Path) -> None:
    calibrated(here, tmp_path, "1.0")
    path = only_file(tmp_path)
    path.write_text(json.dumps(REASONS[reason](json.loads(path.read_text()))))
    assert calibrated(here, tmp_path, "1.0").gpu.memory_bytes_per_s == 2e12
    assert calibrated(here, tmp_path, "1.0").gpu.memory_bytes_per_s == 2e12, "the file is whole again"
    assert len(measured) == 2


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 5000])
def test_a_damaged_file(
    content: bytes, here: Device, measured: list[Device], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "calibration-gpu.json").write_bytes(content)
    with caplog.at_level(logging.WARNING):
        calibrated(here, tmp_path, "1.0")
    assert "ignoring the calibration" in caplog.text
    calibrated(here, tmp_path, "1.0")
    assert len(measured) == 1


def test_a_file_of_somebody_else_is_not_believed(here: Device, measured: list[Device], tmp_path: Path) -> None:
    calibrated(here, tmp_path, "1.0")
    only_file(tmp_path).chmod(0o666)
    assert calibrated(here, tmp_path, "1.0").gpu.memory_bytes_per_s == 2e12


def test_the_date_is_that_of_the_measurement(here: Device, measured: list[Device], tmp_path: Path) -> None:
    calibrated(here, tmp_path, "1.0")
    path = only_file(tmp_path)
    before = time.time() - 3 * 86400.0
    path.write_text(json.dumps(changed("time_s", before)(json.loads(path.read_text()))))
    date = time.strftime("%Y-%m-%d", time.gmtime(before))
    assert f"measured {date} by waterline 1.0" in calibrated(here, tmp_path, "1.0").gpu.provenance
    assert len(measured) == 1


def test_rates_are_of_a_product_and_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU, small; the setting for TF32 is left as it was."""
    monkeypatch.setattr(device, "COPIED_BYTES", 1 << 12)
    settings: list[tuple[str, bool]] = []
    real = device.matrix_peak

    def peak(given: Device, precision: str) -> float:
        class Observed(device.Repeated):
            def seconds(self) -> float:
                settings.append((precision, torch.backends.cuda.matmul.allow_tf32))
                return super().seconds()

        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(device, "Repeated", Observed)
            return real(given, precision, 16)

    monkeypatch.setattr(device, "matrix_peak", peak)
    before = torch.backends.cuda.matmul.allow_tf32
    rates = device.measure_rates(Device(CPU, H200))
    assert set(rates) == {*PRECISIONS, "memory"}
    assert all(0 < rate < 1e15 for rate in rates.values())
    assert set(settings) == {(name, name == "tf32") for name in PRECISIONS}
    assert torch.backends.cuda.matmul.allow_tf32 == before


def test_times_are_taken_on_the_device_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever is the current one."""
    entered: list[torch.device] = []
    calls: list[int] = []

    @contextmanager
    def current(given: torch.device) -> Iterator[None]:
        entered.append(given)
        yield

    def elapsed(work: Callable[[], None]) -> float:
        work()
        return 3.0

    monkeypatch.setattr(torch.cuda, "device", current)
    monkeypatch.setattr(timing, "record", lambda call, times, where: SimpleNamespace(replay=call))
    monkeypatch.setattr(timing, "elapsed_seconds", elapsed)
    run = timing.Repeated(lambda: calls.append(1), 6, torch.device("cuda", 1))
    assert run.seconds() == 0.5
    assert entered == [torch.device("cuda", 1)]
    assert calls == [1]


# ---- weights --------------------------------------------------------------------------------------------------------
def weights_of(graph: Graph, target: GpuTarget) -> GpuWeights:
    return GpuWeights(graph.constants, target, CPU)


def test_weights_are_packed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """By all plans of a network whose layers have the same algorithms and configs."""
    graph = block_networks.bottleneck(1, 8, 8)
    target = GpuTarget(INTERPRETED, "f32")
    weights = weights_of(graph, target)
    moved: list[tuple[int, ...]] = []
    real = GpuWeights._moved

    def observed(self: GpuWeights, array: np.ndarray) -> torch.Tensor:
        moved.append(array.shape)
        return real(self, array)

    monkeypatch.setattr(GpuWeights, "_moved", observed)
    only = PlanOptions(("torch",))  # which has one config
    steps = plan(graph, target, only).steps
    first = [weights.of(step) for step in steps]
    assert len(moved) == 2 * len(steps)  # a weight and a bias
    for n in (1, 3, 40):
        again = plan(graph.with_shapes({"x": (n, 10, 8, 8)}), target, only).steps
        for step, packed in zip(again, first, strict=True):
            assert weights.of(step) is packed
    assert len(moved) == 2 * len(steps)
    assert weights.serves(steps)
    assert not weights.has_released


def test_configs_that_pack_alike_share_their_weights() -> None:
    b = Net(x=(1, 64, 8, 8))
    graph = b.done(b.layer("x", 128))
    graph.dtype = "f16"
    target = GpuTarget(H200, "f16")
    weights = weights_of(graph, target)
    found = {}
    for n in (1, 8, 64, 512):
        (step,) = plan(graph.with_shapes({"x": (n, 64, 8, 8)}), target, PlanOptions(("direct_gemm",))).steps
        found[step.config] = weights.of(step)
    assert len(found) > 1, "batches have different tiles"
    assert len({packed["weight"].data_ptr() for packed in found.values()}) == 1
    assert len({packed["bias"].data_ptr() for packed in found.values()}) == 1


def test_a_constant_that_two_layers_read_differently_is_packed_for_each() -> None:
    b = Net(x=(1, 4, 6, 6))
    b.weights("w", 4, 4, 2, 2)
    tied = b.done(b.put("up", ConvTranspose((2, 2)), b.put("down", Conv((2, 2)), "x", "w"), "w"))
    target = GpuTarget(INTERPRETED, "f32")
    weights = weights_of(tied, target)
    first, second = (weights.of(step) for step in plan(tied, target, PlanOptions(("torch",))).steps if step.spec)
    assert not torch.equal(first["weight"], second["weight"])


def test_weights_are_the_networks_own_copy() -> None:
    """The graph's constants stay as they are, and may be memory that cannot be written to."""
    graph = block_networks.bottleneck(1, 8, 8)
    for value in graph.constants.values():
        value.flags.writeable = False
    target = GpuTarget(INTERPRETED, "f16")
    weights = weights_of(graph, target)
    name = next(iter(graph.constants))
    plain = weights.constant(name)
    assert plain is weights.constant(name)
    assert plain.dtype == torch.float32
    before = graph.constants[name].copy()
    plain += 1
    np.testing.assert_array_equal(graph.constants[name], before)


# ---- programs -------------------------------------------------------------------------------------------------------
def program_of(graph: Graph, precision: str = "f16") -> GpuProgram:
    graph.dtype = precision
    target = GpuTarget(INTERPRETED, precision)
    return GpuProgram(plan(graph, target), weights_of(graph, target), target, Device(CPU, INTERPRETED))


def test_all_tensors_between_layers_lie_in_one_arena() -> None:
    program = program_of(block_networks.bottleneck(2, 8, 8))
    arena = program._arena
    assert arena.numel() == program.plan.arena_bytes
    begin, end = arena.data_ptr(), arena.data_ptr() + arena.numel()
    inside = 0
    for call in program.calls:
        step = program.plan.steps[call.step]
        for storage in (*step.inputs, *step.outputs):
            if program.plan.buffers[storage.root].kind == "arena":
                tensor = program._tensor(storage)
                assert begin <= tensor.data_ptr() < tensor.data_ptr() + tensor.nbytes <= end
                assert tuple(tensor.shape) == storage.view.shape
                inside += 1
    assert inside


def test_calls_by_step() -> None:
    program = program_of(block_networks.bottleneck(2, 8, 8))
    assert [call for calls in program.by_step for call in calls] == program.calls
    assert len(program.by_step) == len(program.plan.steps)
    assert all(program.by_step)


def test_inputs_are_not_written_and_results_are_not_kept() -> None:
    program = program_of(block_networks.bottleneck(2, 8, 8))
    x = torch.randn(2, 10, 8, 8)
    before = x.clone()
    (first,) = program.run([x])
    assert torch.equal(x, before)
    kept = first.clone()
    (second,) = program.run([x + 1])
    assert torch.equal(first, kept)
    assert first.data_ptr() != second.data_ptr()
    assert first.is_contiguous(memory_format=torch.channels_last)


def test_a_gpu_without_free_memory_has_the_drivers_rates(
    here: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Device) -> dict[str, float]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(device, "measure_rates", full)
    assert calibrated(here, tmp_path, "1.0") == here
    assert not list(tmp_path.iterdir()), "it is measured the next time"
