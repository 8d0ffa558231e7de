"""Tables of the GPU suite's records, from records that are made up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from waterline.bench import records
from waterline.bench.records import Record
from waterline.machine.gpu import H200
from waterline.report import results
from waterline.report.results import gpu, pages

ROOT = Path(__file__).resolve().parents[2]
LAYERS = ROOT / "benchmarks" / "layers"
PEAKS = (("f32", 50e12), ("tf32", 400e12), ("f16", 800e12), ("bf16", 800e12))
MEASURED = replace(H200, name="NVIDIA H200", memory_bytes_per_s=4e12, measured_flops_per_s=PEAKS)
LAYER = "n64_c64_h56_w56_k64_r3_s3_st1_pd1_dl1_g1_f32"
GROUPED = "n64_c128_h56_w56_k128_r3_s3_st1_pd1_dl1_g16_f32"


def record(protocol: str, model: str, engine: str, us: float, algorithm: str = "", **more: Any) -> Record:
    """As the suite writes it: 1 GFLOP, 1 MB; cold calls take twice as long."""
    day = more.pop("day", "2026-11-22")
    precision = more.get("dtype", "bf16")
    common = records.environment(MEASURED, {"torch": "2.13.0", "triton": "3.9.0"})
    return {
        **common,
        "date": f"{day}T00:00:00+00:00",
        "commit": "0123456789ab",
        "protocol": protocol,
        "model": model,
        "batch": 64,
        "dtype": precision,
        "flops": 10**9,
        "moved_bytes": 1e6,
        "peak_flops_per_s": MEASURED.peak(precision),
        "memory_bytes_per_s": MEASURED.memory_bytes_per_s,
        "engine": engine,
        "algorithm": algorithm,
        "config": "",
        "warm_ms": us / 1e3,
        "cold_ms": 2 * us / 1e3,
        **more,
    }


def network(model: str, ours: float, torch: float, inductor: float | None = None, **more: Any) -> list[Record]:
    found = [record("gpu networks", model, "waterline", ours, "plan", **more)]
    found.append(record("gpu networks", model, "torch", torch, **more))
    return found + ([] if inductor is None else [record("gpu networks", model, "inductor", inductor, **more)])


def failed(of: Record) -> Record:
    return {**{name: value for name, value in of.items() if not name.endswith("_ms")}, "error": "no memory"}


def test_networks_beside_pytorch_and_inductor():
    found = [*network("convfirst_tiny", 100, 250, 200), *network("convnext_tiny", 200, 400, 320)]
    found += network("resnet18", 50, 50, batch=1)
    found += [record("gpu networks", "convfirst_tiny", "waterline", 90, "fused")]
    (table,) = gpu.tables(found)
    assert table.rows == [
        ["resnet18", "1", "bf16", "50.0", "20000", "2.5 %", "", "50.0", "", "1.00", ""],
        [
            "convfirst_tiny",
            "64",
            "bf16",
            "100.0",
            "640000",
            "1.2 %",
            "fused, 90.0 us",
            "250.0",
            "200.0",
            "2.50",
            "2.00",
        ],
        ["convnext_tiny", "64", "bf16", "200.0", "320000", "0.6 %", "", "400.0", "320.0", "2.00", "1.60"],
    ]
    assert [row[-2:] for row in table.totals] == [["1.00", ""], ["2.24", "1.79"]]
    (note,) = table.notes
    assert note.startswith("Batch 64: convfirst_tiny here is 3.20 times as fast as convnext_tiny by Inductor")
    assert "about 4" in note


def test_a_network_that_was_measured_again_is_shown_once():
    old, new = network("resnet18", 50, 100), network("resnet18", 40, 100, 60, day="2026-11-23")
    machine = gpu.GpuMachine("NVIDIA H200", MEASURED.to_dict(), {"gpu": [*old, *new]})
    (table,) = gpu.tables(machine.records)
    assert [row[3] for row in table.rows] == ["40.0"]


def test_blocks_fused_and_layer_by_layer():
    name = "convfirst block 256x14x14"
    found = [
        record("gpu blocks", name, "waterline", 20, "fused"),
        record("gpu blocks", name, "waterline", 30, "layer by layer"),
        record("gpu blocks", name, "torch", 80),
        record("gpu blocks", name, "inductor", 50),
    ]
    mbconv = [record("gpu blocks", "inverted", "waterline", 10, each) for each in ("fused", "layer by layer")]
    mbconv[0] = failed(mbconv[0])
    (table,) = gpu.tables([*found, *mbconv])
    assert table.rows[0][:8] == [name, "64", "20.0", "30.0", "80.0", "50.0", "1.50", "2.50"]
    assert table.rows[1][:8] == ["inverted", "64", "", "10.0", "", "", "", ""]
    assert table.totals[0][6:8] == ["1.50", "2.50"]
    assert table.notes == ["Not in the tables: 1 that failed, 0 that were wrong."]


def test_layers_by_their_fastest_algorithm():
    found = [
        record("gpu layers", LAYER, "waterline", 10, "winograd:f4x4", disagreement=3.0),
        record("gpu layers", LAYER, "waterline", 20, "indirect", disagreement=0.5),
        record("gpu layers", LAYER, "waterline", 25, "winograd:f2x2", disagreement=0.5),
        record("gpu layers", LAYER, "cudnn", 30, "channels_last"),
        record("gpu layers", LAYER, "inductor", 40, "max-autotune"),
    ]
    del found[0]["warm_ms"], found[0]["cold_ms"]  # wrong: not timed
    (table,) = gpu.tables(found)
    (row,) = table.rows
    assert row == [
        "64x64x56x56 3x3 -> 64",
        "64",
        "bf16",
        "indirect",
        "20.0",
        "40.0",
        "6.2 %",
        "30.0",
        "4.2 %",
        "1.50",
        "2.00",
    ]
    assert table.totals[0][-2:] == ["1.50", "2.00"]
    assert table.notes == ["Not in the tables: 0 that failed, 1 that were wrong."]


def test_vgg_beside_what_is_published():
    found = [
        record("gpu layers", LAYER, "waterline", 10, "winograd:f4x4", dtype="f32"),
        record("gpu layers", LAYER, "cudnn", 30, "channels_last", dtype="f32"),
        record("gpu layers", LAYER, "cudnn", 20, "contiguous", dtype="f32"),
    ]
    (table,) = gpu.tables(found)
    assert table.rows[0][2:] == ["winograd:f4x4", "10.0", "100.0", "200.0 %", "20.0", "2.00", ""]
    assert table.totals[0][-3:] == ["", "2.00", "1.48"]


def test_grouped_layers_and_gradients_by_bandwidth():
    found = []
    for which, us in (("forward", 1.0), ("weight gradient", 4.0)):
        found += [record("gpu grouped", GROUPED, "waterline", us, "grouped", data=which)]
        found += [record("gpu grouped", GROUPED, "cudnn", 3 * us, data=which)]
    (table,) = gpu.tables(found)
    assert [row[2:] for row in table.rows] == [
        ["forward", "1.0", "2.0", "12.5 %", "3.0", "3.00"],
        ["weight gradient", "4.0", "8.0", "3.1 %", "12.0", "3.00"],
    ]
    assert [row[2] for row in table.totals] == ["forward", "weight gradient"]


def test_nothing_is_shown_of_nothing(tmp_path):
    assert gpu.tables([]) == []
    only = failed(record("gpu layers", LAYER, "waterline", 1.0))
    assert gpu.tables([only]) == []
    assert results.read_gpus(tmp_path) == []


def test_the_interpreter_is_no_gpu(tmp_path):
    found = [{**each, "machine": H200.to_dict()} for each in network("resnet18", 50, 100)]
    records.append(tmp_path / "gpu.jsonl", found)
    assert results.read_gpus(tmp_path) == []
    assert results.read(tmp_path) == []


def test_the_page_has_gpus_behind_machines(tmp_path):
    suite = {**record("gpu suite", "", "", 1.0), "left": ["resnet18"]}
    records.append(tmp_path / "gpu.jsonl", [*network("resnet18", 50, 100), suite])
    (machine,) = results.read_gpus(tmp_path)
    assert results.read(tmp_path) == []  # no machine of the other kind
    page = pages.page([], LAYERS, {}, [machine])
    assert "* [NVIDIA H200](#nvidia-h200): compute capability 9.0, 132 multiprocessors, 50 MB L2" in page
    assert "f32 50, tf32 400, f16 800, bf16 800" in page
    assert "## NVIDIA H200" in page
    assert "torch 2.13.0, triton 3.9.0." in page
    assert "`gpu.jsonl`, commit 0123456789ab (2026-11-22)." in page
    assert "**Networks on a GPU**" in page
    assert "| resnet18 | 64 |" in page
