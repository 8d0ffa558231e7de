"""Networks on a GPU: mistakes of callers, reports, tuning, and machines without Triton or without a GPU."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from algorithms import block_networks

import waterline
from waterline import CompiledNetwork, InvalidArgument, Refused, Report
from waterline.api import gpu, options
from waterline.api.compiling import make_engine, make_plan, read_source
from waterline.errors import Error
from waterline.graph import Graph
from waterline.machine.gpu import H100
from waterline.planner import Plan, tuning_tasks
from waterline.planner.choice import Offer
from waterline.runtime.gpu import device
from waterline.runtime.gpu.tuning import GpuTrial, label
from waterline.runtime.measured_layers import FILE_NAME
from waterline.runtime.tuning import LEAST_ROUNDS, Progress
from waterline.spec import ConvSpec

from .networks import graph, image, model_proto, module

SHAPE = (2, 3, 6, 5)


@pytest.fixture(scope="module")
def net() -> CompiledNetwork:
    return waterline.compile(graph(SHAPE), device="cuda")


def one_line(error: Error, *, hint: bool = True) -> str:
    """What the user sees."""
    text = str(error)
    assert "\n" not in text
    assert bool(error.hint) or not hint, text
    return text


# ---- mistakes -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("value", "words"),
    [
        (image(*SHAPE).astype(np.float64), ["float64", "accepted are float32, float16, bfloat16", "astype('float32')"]),
        (image(*SHAPE).astype(np.int64), ["int64", "astype('float32')"]),
        (image(*SHAPE).astype(">f4"), [">f4"]),
        (torch.zeros(SHAPE, dtype=torch.float64), ["float64", "x.float()"]),
        (torch.zeros(SHAPE, dtype=torch.int8), ["int8"]),
        (torch.zeros(SHAPE, device="meta"), ["is on meta, the network on cpu", "x.to('cpu')"]),
        (torch.zeros(SHAPE).to_sparse(), ["sparse_coo", "to_dense"]),
        (image(*SHAPE).tolist(), ["list", "NumPy array"]),
        (image(2, 3, 6), ["shape (2, 3, 6)", "(N, 3, 6, 5)", "number of axes"]),
        (image(9, 3, 6), ["shape (9, 3, 6)"]),
        (np.float32(1), ["shape ()"]),
        (image(9, 4, 6, 5), ["(9, 4, 6, 5)", "(N, 3, 6, 5)"]),
    ],
)
def test_arrays_that_do_not_fit(net: CompiledNetwork, value: Any, words: Sequence[str]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        net(value)
    for word in ("'x'" if "4, 6, 5" not in words[0] else "x", *words):
        assert word in one_line(caught.value)


def test_what_comes_through_dlpack_is_checked_alike(net: CompiledNetwork) -> None:
    class Exported:
        def __init__(self, array: np.ndarray) -> None:
            self._array = array

        def __dlpack__(self, **how: object) -> object:
            return self._array.__dlpack__(**how)

        def __dlpack_device__(self) -> tuple[int, int]:
            return self._array.__dlpack_device__()

    with pytest.raises(InvalidArgument) as caught:
        net(Exported(image(*SHAPE).astype(np.float64)))
    assert one_line(caught.value).startswith("input 'x' has dtype float64")


def test_numbers_and_names_of_inputs(net: CompiledNetwork) -> None:
    x = image(*SHAPE)
    for inputs, named, words in [((), {}, "'x' is missing"), ((x, x), {}, "got 2"), ((), {"y": x}, "'y'")]:
        with pytest.raises(InvalidArgument, match=words) as caught:
            net(*inputs, **named)
        one_line(caught.value)


def test_a_traced_network_names_the_shape_that_it_was_given() -> None:
    net = waterline.compile(module(), torch.from_numpy(image()), device="cuda")
    with pytest.raises(InvalidArgument, match=r"got \(9, 3, 8, 8\)") as caught:
        net(torch.zeros(9, 3, 8, 8))
    one_line(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"device": "gpu"}, ["device 'gpu' is not served", "cuda:1"]),
        ({"device": "cuda:x"}, ["device 'cuda:x'", "cuda:0"]),
        ({"dtype": "float64"}, ["float64", "float32, tf32, float16, bfloat16"]),
        ({"dtype": np.int8}, ["int8", "bfloat16"]),
        ({"num_threads": 2}, ["num_threads is 2 with device 'cuda'", "leave it out"]),
        ({"options": {"algorithms": ["im2col"]}}, ["im2col", "direct_gemm"]),
        ({"options": {"algorithms": ["winograd:f2x2", "winograd:f4"]}}, ["'winograd:f4'", "did you mean"]),
        ({"options": {"workspace_bytes": 0}}, ["workspace_bytes"]),
    ],
)
def test_arguments_that_do_not_fit(arguments: dict[str, Any], words: Sequence[str]) -> None:
    for call in (waterline.compile, make_plan):
        with pytest.raises(InvalidArgument) as caught:
            call(graph(SHAPE), **{"device": "cuda", **arguments})
        for word in words:
            assert word in one_line(caught.value)


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [("half", "f16"), (torch.float16, "f16"), (np.float16, "f16"), (torch.bfloat16, "bf16"), ("tf32", "tf32")],
)
def test_names_of_types(dtype: Any, kind: str) -> None:
    made = make_plan(graph(SHAPE), device=torch.device("cuda:0"), dtype=dtype)
    assert {step.dtype for step in made.steps} == {kind}


def test_nothing_that_is_allowed_serves_a_layer() -> None:
    with pytest.raises(Refused, match=r"conv .*depthwise: ") as caught:
        waterline.compile(graph(SHAPE), device="cuda", options={"algorithms": "depthwise"})
    one_line(caught.value)


@pytest.mark.parametrize("package", ["triton", "torch"])
def test_without_a_package(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = options.find_spec
    monkeypatch.setattr(options, "find_spec", lambda name: None if name == package else real(name))
    with pytest.raises(InvalidArgument, match=f"needs the package {package}.*extra `gpu`") as caught:
        waterline.compile(graph(SHAPE), device="cuda:0")
    one_line(caught.value)
    waterline.compile(graph(SHAPE), num_threads=1)


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "is_interpreted", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        InvalidArgument, match=r"device 'cuda': PyTorch finds no NVIDIA GPU.*pass device='cpu'"
    ) as caught:
        waterline.Session(model_proto(12, 10), device="cuda")
    one_line(caught.value)


# ---- reports --------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def several() -> CompiledNetwork:
    """A block, operators and layers by themselves."""
    return waterline.compile(block_networks.excited(1, 6, 6), device="cuda")


@pytest.fixture(scope="module")
def report(several: CompiledNetwork) -> Report:
    return several.profile(image(1, 7, 6, 6), seconds=0.01)


def test_a_profile_has_a_row_for_each_step(several: CompiledNetwork, report: Report) -> None:
    assert [(row.name, row.algorithm) for row in report.rows] == [(step.name, step.kind) for step in several.plan.steps]
    assert all(row.time_ns > 0 and row.bound_ns > 0 and row.bytes > 0 for row in report.rows)
    assert [row.flops for row in report.rows] == [step.spec.flops if step.spec else 0 for step in several.plan.steps]
    assert report.time_ns > 0
    assert report.totals["flops"] == several.plan.flops
    assert (report.threads, report.runs, report.machine) == (1, 1, device.INTERPRETED.name)


def test_bytes_of_halves_are_half_of_those(report: Report) -> None:
    net = waterline.compile(
        block_networks.excited(1, 6, 6), device="cuda", dtype="float16", options={"block_fusion": False}
    )
    halves = {row.name: row.bytes for row in net.profile(image(1, 7, 6, 6), seconds=0.01).rows}
    same = [row for row in report.rows if row.name in halves]
    assert len(same) >= 3
    for row in same:
        assert halves[row.name] <= 0.51 * row.bytes, row.name


def test_a_profile_in_other_forms(report: Report) -> None:
    assert json.loads(report.to_json())["rows"][0]["name"] == report.rows[0].name
    lines = list(csv.DictReader(io.StringIO(report.to_csv())))
    assert [line["name"] for line in lines] == [row.name for row in report.rows]
    assert all(row.name in report.to_markdown() and row.name in str(report) for row in report.rows)


def test_a_profile_of_fewer_images_than_are_computed() -> None:
    net = waterline.compile(graph((1, 3, 6, 5)), device="cuda")
    report = net.profile(image(9, 3, 6, 5), seconds=0.01)
    assert report.rows[0].shape == "n10_c3_h6_w5_k8_r3_s3_st1_pd1_dl1_g1_f32"


def test_a_profile_of_no_images(net: CompiledNetwork) -> None:
    report = net.profile(image(0, 3, 6, 5), seconds=0.01)
    assert [row.flops for row in report.rows] == [0]
    json.loads(report.to_json())


@pytest.mark.parametrize("seconds", [0, -1, True, "1"])
def test_seconds_of_a_profile(net: CompiledNetwork, seconds: Any) -> None:
    with pytest.raises(InvalidArgument, match="positive"):
        net.profile(image(*SHAPE), seconds=seconds)


def test_analyses(several: CompiledNetwork) -> None:
    predicted = several.analyse()
    measured = several.analyse(image(1, 7, 6, 6), seconds=0.01)
    for each in (predicted, measured):
        assert [layer.name for layer in each.layers] == [step.name for step in several.plan.steps]
        assert all(layer.time_ns > 0 and layer.bound_ns > 0 for layer in each.layers)
        assert each.time_ns > 0
        assert json.loads(json.dumps(each.to_dict()))["totals"]["flops"] == several.plan.flops
        assert f"built on {device.INTERPRETED.name}" in str(each)
    assert (predicted.is_measured, measured.is_measured) == (False, True)


@pytest.mark.parametrize("machine", ["H200", "a100", H100, "cuda"])
def test_analyses_of_gpus_that_are_not_here(machine: Any) -> None:
    found = waterline.analyse(block_networks.conv_next(1, 6, 6), machine=machine, dtype="float16")
    name = {"H200": "H200", "a100": "A100", "cuda": device.INTERPRETED.name}.get(machine, "H100")
    assert found.machine == name
    assert not found.is_measured
    assert 0 < found.time_ns < 1e6


def test_every_step_in_words(several: CompiledNetwork) -> None:
    text = several.explain()
    assert device.INTERPRETED.name in text
    for step in several.plan.steps:
        assert f"\n{step.name}: " in text
    assert "bytes stay inside" in text
    assert "refused: " in text
    assert "excited" not in repr(several)
    assert f"{len(several.plan.steps)} steps" in repr(several)


# ---- tuning ---------------------------------------------------------------------------------------------------------
class MadeUp:
    """In the place of `GpuTrial`: the candidate that costs most by the model is the fastest."""

    def __init__(self) -> None:
        self.specs: list[ConvSpec] = []

    def __call__(self, spec: ConvSpec, offers: Sequence[Offer], *_: object) -> MadeUp:
        self.specs.append(spec)
        self._seconds = [1e-6 / offer.seconds * 1e-6 for offer in offers]
        return self

    def run(self, threads: int) -> np.ndarray:
        return np.array(self._seconds)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine on which nothing was measured."""
    monkeypatch.setenv("WATERLINE_CACHE_DIR", str(tmp_path))
    gpu._measured_layers.cache_clear()
    yield tmp_path
    gpu._measured_layers.cache_clear()


@pytest.fixture
def trial(folder: Path, monkeypatch: pytest.MonkeyPatch) -> MadeUp:
    made_up = MadeUp()
    monkeypatch.setattr(gpu, "GpuTrial", made_up)
    return made_up


def wide() -> Graph:
    """Several kernels serve its layer."""
    return graph((1, 32, 8, 8), 32)


def tuned(model: Graph, tune: Any = 1e3, **arguments: Any) -> Plan:
    return waterline.compile(model, device="cuda", options={"tune": tune}, **arguments).plan


def chosen(made: Plan) -> tuple[str, Any, float | None]:
    (step,) = (step for step in made.steps if step.spec is not None)
    return step.algorithm, step.config, step.candidates[0].measured_seconds


def test_what_was_measured_is_taken_and_kept(folder: Path, trial: MadeUp) -> None:
    engine = make_engine("cuda", "float32", None)
    (task,) = tuning_tasks(read_source(wide()).graph, engine.target)
    assert len(task.candidates) > 1
    slowest = task.candidates[-1]
    first = tuned(wide())
    algorithm, config, seconds = chosen(first)
    assert (algorithm, config) == (slowest.algorithm.name, slowest.config)
    assert seconds == pytest.approx(1e-12 / slowest.seconds)
    assert [json.loads(line)["layer"] for line in (folder / FILE_NAME).read_text().splitlines()] == [task.key]

    count = len(trial.specs)
    gpu._measured_layers.cache_clear()  # another process
    assert chosen(tuned(wide())) == chosen(first)
    assert chosen(tuned(wide(), "known")) == chosen(first)
    assert chosen(make_plan(wide(), device="cuda", options={"tune": "known"})) == chosen(first)
    assert len(trial.specs) == count, "nothing is measured twice"
    assert chosen(waterline.compile(wide(), device="cuda").plan)[2] is None


def test_another_precision_or_batch_is_measured_anew(trial: MadeUp) -> None:
    tuned(wide())
    tuned(wide(), dtype="float16")
    tuned(wide().with_shapes({"x": (4, 32, 8, 8)}))
    assert {(spec.dtype, spec.n) for spec in trial.specs} == {("f32", 1), ("f16", 1), ("f32", 4)}


def test_nothing_is_measured_where_it_was_not_asked_for(folder: Path, trial: MadeUp) -> None:
    assert chosen(tuned(wide(), "known"))[2] is None
    assert chosen(tuned(wide(), False))[2] is None
    assert trial.specs == []
    assert not (folder / FILE_NAME).exists()


def test_damaged_lines_are_as_good_as_none(folder: Path, trial: MadeUp) -> None:
    first = tuned(wide())
    record = json.loads((folder / FILE_NAME).read_text())
    lines = ["{", json.dumps({**record, "machine": "another"})]
    for timing in (["im2col", None, 1e-9], ["direct_gemm", None], ["direct_gemm", {"$": "Nobody"}, 1e-9]):
        lines.append(json.dumps({**record, "timings": [timing]}))
    (folder / FILE_NAME).write_text("\n".join(lines) + "\n")
    gpu._measured_layers.cache_clear()
    assert chosen(tuned(wide(), "known"))[2] is None
    assert chosen(tuned(wide())) == chosen(first)


def test_names_of_measured_algorithms() -> None:
    assert label("winograd:f2x2", None) == "winograd:f2x2"
    with pytest.raises(KeyError):
        label("im2col", None)


def test_progress_is_told(trial: MadeUp) -> None:
    engine = make_engine("cuda", "float32", None)
    tasks = tuning_tasks(read_source(block_networks.basic(1, 8, 8)).graph, engine.target)
    told: list[Progress] = []
    result = engine.tune(tasks, tasks, 1e3, told.append)
    assert set(result.measured) == {task.key for task in tasks}
    assert (result.known, result.left) == ((), ())
    assert [each.task.key for each in told if not each.rounds] == list(result.measured)
    assert max(each.rounds for each in told) >= LEAST_ROUNDS
    assert {each.total for each in told} == {len(tasks)}


def test_a_trial_runs_every_candidate(folder: Path) -> None:
    engine = make_engine("cuda", "float16", None)
    source = read_source(graph((1, 16, 5, 4), 16)).graph
    source.dtype = "f16"
    (task,) = tuning_tasks(source, engine.target)
    trial = GpuTrial(task.spec, task.candidates[:1], engine.target, engine.device)
    more = GpuTrial(task.spec, task.candidates, engine.target, engine.device, trial)
    seconds = more.run(1)
    assert seconds.shape == (len(task.candidates),)
    assert (seconds > 0).all()


@pytest.mark.parametrize("kind", [RuntimeError, torch.cuda.OutOfMemoryError])
def test_a_kernel_that_cannot_be_made_is_no_candidate(
    kind: type[Exception], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine("cuda", "float32", None)
    (task,) = tuning_tasks(read_source(wide()).graph, engine.target)
    bad = task.candidates[0]

    def repeated(self: GpuTrial, spec: ConvSpec, offer: Offer, *_: Any) -> SimpleNamespace:
        if offer == bad:
            raise kind("there is no memory")
        return SimpleNamespace(seconds=lambda: 1e-6)

    monkeypatch.setattr(GpuTrial, "_repeated", repeated)
    with pytest.raises(Refused, match="there is no memory"):
        GpuTrial(task.spec, [bad], engine.target, engine.device)
    result = engine.tune([task], [task], 1e3)
    assert result.measured == (task.key,)
    timings = {(each.label, each.config): each.seconds for each in engine.measured_layers().load()[task.key].timings}
    assert timings[bad.label, bad.config] is None
    assert sum(seconds is not None for seconds in timings.values()) == len(task.candidates) - 1
