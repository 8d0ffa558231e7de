"""Every command on a small network: what it prints, and that it fits together."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from waterline.bench import records

SPEC = "n2_c8_h8_w8_k8_r3_s3_st1_pd1_dl1_g1_f32"
POINTWISE = "n1_c8_h8_w8_k16_r1_s1_st1_pd0_dl1_g1_f32"


def test_info(call) -> None:
    result = call("info")
    assert result.returncode == 0
    for word in ("machine", "caches", "peak", "GFLOP/s", "bandwidth", "cache folder", "numpy", "measured"):
        assert word in result.stdout
    assert result.stderr == ""


def test_info_json(call, cache: Path) -> None:
    facts = json.loads(call("info", "--json").stdout)
    assert facts["machine"]["features"]
    assert facts["peak_flops_per_s"]["1"] > 1e8
    assert facts["bandwidth_bytes_per_s"]["dram"]["1"] > 1e8
    assert facts["versions"]["waterline"]
    assert facts["cache_folder"] == str(cache)


def test_help_is_on_stdout(start) -> None:
    result = start("--help")
    assert result.returncode == 0
    assert "bench" in result.stdout
    assert result.stderr == ""
    assert start("bench", "--help").stdout.count("--seconds") >= 1


def test_run_on_random_data(call, small_model: Path) -> None:
    result = call("run", small_model, "--random", "--seconds", "0.1", "--batch", "2", "--profile")
    assert result.returncode == 0
    assert "correct against float64" in result.stdout
    assert "scores 2x10, largest: " in result.stdout
    assert "waterline" in result.stdout
    assert "conv" in result.stdout
    assert "GFLOP/s" in result.stdout


def test_run_on_a_photograph(call, small_model: Path) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("PIL")
    result = call("run", small_model, "--seconds", "0.1")
    assert result.returncode == 0
    assert "china.jpg" in result.stdout


def test_run_on_an_image_as_json(call, small_model: Path, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    image.effect_noise((300, 200), 50).save(tmp_path / "noise.png")  # grey
    result = call("run", small_model, "--image", tmp_path / "noise.png", "--seconds", "0.1", "--json", "--profile")
    facts = json.loads(result.stdout)
    assert facts["outputs"]["scores"]["shape"] == [1, 10]
    assert len(facts["outputs"]["scores"]["top"]) == 5
    assert facts["check"]["scores"]["is_within"] is True
    assert facts["records"][0]["engine"] == "waterline"
    assert facts["profile"]["rows"]


def test_bench_against_peers(call, small_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    path, lines = tmp_path / "list.json", tmp_path / "lines.jsonl"
    arguments = ["bench", small_model, "--vs", "onnxruntime", "--batch", "1,3", "--threads", "1", "--seconds", "0.1"]
    result = call(*arguments, "--json", path, "--append", lines)
    assert result.returncode == 0, result.stderr
    assert "onnxruntime" in result.stdout
    found = json.loads(path.read_text())
    assert [(r["engine"], r["batch"]) for r in found] == [
        ("waterline", 1), ("onnxruntime", 1), ("waterline", 3), ("onnxruntime", 3)
    ]  # fmt: skip
    assert all(r["samples"] and r["flops"] > 0 and 0 < r["computational_efficiency"] < 1.2 for r in found)
    assert found[2]["flops"] == 3 * found[0]["flops"]
    assert records.read(lines) == found


def test_bench_to_stdout_is_json_alone(call, small_model: Path) -> None:
    found = json.loads(call("bench", small_model, "--threads", "1", "--seconds", "0.1", "--json", "-").stdout)
    assert found[0]["model"] == "small"


def test_bench_layers_and_algorithms(call, tmp_path: Path) -> None:
    (tmp_path / "layers.txt").write_text(f"# two\n{SPEC}\n{POINTWISE}\n")
    result = call(
        "bench", "--conv", tmp_path / "layers.txt", "--algorithm", "indirect,im2col,depthwise", "--threads", "1",
        "--seconds", "0.1", "--json", "-",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert {(r["model"], r["algorithm"]) for r in found} >= {(SPEC, "indirect"), (SPEC, "im2col")}
    assert {r["batch"] for r in found if r["model"] == SPEC} == {2}
    assert "depthwise is left out" in result.stderr
    assert all(r["kernel_ms"] <= r["p90_ms"] for r in found)


def test_bench_as_markdown(call, small_model: Path) -> None:
    result = call("bench", small_model, "--threads", "1", "--seconds", "0.1", "--markdown")
    assert result.stdout.startswith("| model |")


def test_profile(call, small_model: Path) -> None:
    result = call("profile", small_model, "--seconds", "0.1")
    assert result.returncode == 0
    assert "conv" in result.stdout
    assert "network" in result.stdout


def test_profile_json_and_csv(call, small_model: Path) -> None:
    facts = json.loads(call("profile", small_model, "--seconds", "0.1", "--json").stdout)
    promised = {"name", "shape", "algorithm", "time_ns", "flops", "bytes", "operational_intensity"}
    promised |= {"effective_flops_per_s", "computational_efficiency", "bound_ns"}
    assert all(promised <= set(row) for row in facts["rows"])
    rows = list(csv.DictReader(io.StringIO(call("profile", small_model, "--seconds", "0.1", "--csv").stdout)))
    assert [row["name"] for row in rows] == [row["name"] for row in facts["rows"]]


def test_profile_with_and_without_phases(call, small_model: Path) -> None:
    more = call("profile", small_model, "--seconds", "0.1", "--csv", "--phases").stdout
    assert more.startswith("name,phase,shape,")
    facts = json.loads(call("profile", small_model, "--seconds", "0.1", "--json", "--no-phases").stdout)
    assert all("phases" in row for row in facts["rows"])
    short = call("profile", small_model, "--seconds", "0.1", "--no-phases")
    assert short.returncode == 0
    assert "% of it" not in short.stdout


def test_explain(call, small_model: Path) -> None:
    result = call("explain", small_model)
    assert result.returncode == 0
    assert "conv" in result.stdout


def test_check_a_network(call, small_model: Path) -> None:
    result = call("check", small_model, "--batch", "2")
    assert result.returncode == 0
    assert result.stdout.startswith("ok")


def test_check_layers(call) -> None:
    result = call("check", "--conv", SPEC, POINTWISE, "--algorithm", "naive,direct_gemm,indirect")
    assert result.returncode == 0, result.stdout
    assert f"{SPEC}  naive" in result.stdout
    assert f"{POINTWISE}  direct_gemm" in result.stdout


def test_a_failed_check_is_status_1(call, small_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from waterline.cli import check
    from waterline.reference import compare

    monkeypatch.setattr(check, "check_network", lambda *_, **__: {"scores": compare([1.0], [2.0], 0.1)})
    result = call("check", small_model)
    assert result.returncode == 1
    assert result.stdout.startswith("FAILED")
