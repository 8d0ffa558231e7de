"""`waterline tune`: a table, JSON, interruption, and a second run that has nothing left to do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from waterline.api import environment
from waterline.runtime import tuning
from waterline.runtime.measured_layers import FILE_NAME


@pytest.fixture
def fresh(cache: Path) -> Iterator[Path]:
    """The cache folder without measured layers."""
    (cache / FILE_NAME).unlink(missing_ok=True)
    environment.measured_layers.cache_clear()
    yield cache
    environment.measured_layers.cache_clear()


def test_another_process_prints_a_table(start, fresh: Path, small_model: Path) -> None:
    result = start("tune", small_model, "--seconds", "100")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith("small, batch 1, ")
    for heading in ("layer", "by cost", "by measurement", "predicted us", "measured us", "gain"):
        assert heading in lines[1]
    assert any(line.startswith("conv ") for line in lines)
    assert any(line.startswith("gemm ") for line in lines)
    assert "2 layers measured now, 0 known before" in lines[-1]
    again = start("tune", small_model)
    assert "0 layers measured now, 2 known before" in again.stdout
    assert again.stdout.splitlines()[:-1] == lines[:-1]  # the same figures
    assert start("tune", small_model, "--again").stdout.splitlines()[-1].startswith("2 layers measured now")


def test_json(call, fresh: Path, small_model: Path) -> None:
    facts = json.loads(call("tune", small_model, "--json", "--threads", "2", "--batch", "3").stdout)
    assert (facts["network"], facts["threads"], facts["batch"], facts["accuracy"]) == ("small", 2, 3, "default")
    assert (facts["measured"], facts["known"], facts["left"], facts["is_interrupted"]) == (2, 0, 0, False)
    assert [layer["name"] for layer in facts["layers"]] == ["conv", "gemm"]
    for layer in facts["layers"]:
        assert layer["spec"].startswith("n3_")
        chosen, *others = layer["candidates"]
        assert chosen["algorithm"] == layer["after"]
        assert chosen["measured_seconds"] == layer["measured_seconds"] > 0
        times = [each["measured_seconds"] for each in others if each["measured_seconds"] is not None]
        assert times == sorted(times)
        assert times
        assert min(times) >= chosen["measured_seconds"]
        assert all(each["predicted_seconds"] > 0 for each in layer["candidates"])


def test_other_conditions_are_measured_again(call, fresh: Path, small_model: Path) -> None:
    def measured(*arguments: str) -> int:
        return json.loads(call("tune", small_model, "--json", *arguments).stdout)["measured"]

    assert measured("--threads", "1") == 2
    assert measured("--threads", "1") == 0
    assert measured("--threads", "2") == 2
    assert measured("--threads", "2", "--batch", "2") == 2
    assert measured("--threads", "2", "--accuracy", "strict") == 2
    assert measured("--threads", "2", "--batch", "2") == 0


def test_an_interruption_keeps_what_was_measured(
    call, fresh: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tuning.Trial

    def interrupted(*arguments):
        if environment.measured_layers().load():
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(tuning, "Trial", interrupted)
        result = call("tune", small_model)
    assert result.returncode == 1
    assert result.stderr.splitlines() == [
        "waterline: interrupted: 1 of 2 layers are measured, and kept",
        "hint: run it again to go on",
    ]
    assert "not measured" in result.stdout
    assert "1 layers are left, and chosen by cost" in result.stdout
    result = call("tune", small_model)
    assert result.returncode == 0
    assert "1 layers measured now, 1 known before" in result.stdout
    assert "left" not in result.stdout


def test_a_budget_that_ends_is_told(call, fresh: Path, small_model: Path) -> None:
    result = call("tune", small_model, "--seconds", "1e-9")
    assert result.returncode == 0
    assert "layers are left, and chosen by cost: run it again to go on" in result.stdout


def test_explain_shows_predicted_and_measured_times(call, fresh: Path, small_model: Path) -> None:
    before = call("explain", small_model)
    assert "measured" not in before.stdout
    call("tune", small_model)
    untuned = call("explain", small_model).stdout.splitlines()
    assert untuned[:-1] == before.stdout.splitlines()
    assert untuned[-1] == "2 of 2 different layers have measured times: --tuned plans with them"
    tuned = call("explain", small_model, "--tuned").stdout
    chosen = [line for line in tuned.splitlines() if "chosen" in line]
    assert len(chosen) == 2
    assert all("predicted" in line and "measured" in line for line in chosen)
    assert "refused: " in tuned
    strict = call("explain", small_model, "--tuned", "--accuracy", "strict").stdout
    assert "0 of 2 different layers" in strict


def test_commands_that_run_a_network_take_tuned_plans(call, fresh: Path, small_model: Path) -> None:
    """One candidate is made the fastest by a false time: with the flag it is what runs, without it is not."""
    call("tune", small_model)
    lines = [json.loads(line) for line in (fresh / FILE_NAME).read_text().splitlines()]
    (conv,) = (line for line in lines if "_r3_s3_" in line["layer"])
    by_cost = profiled(call, small_model)
    favourite = next(timing for timing in conv["timings"] if timing[2] and timing[0] != by_cost)
    favourite[2] = 1e-9
    (fresh / FILE_NAME).write_text("".join(json.dumps(line) + "\n" for line in lines))
    environment.measured_layers.cache_clear()
    assert profiled(call, small_model) == by_cost
    assert profiled(call, small_model, "--tuned") == favourite[0]

    told = f"{small_model}: 2 of 2 layers are chosen by measured times\n"
    short = (small_model, "--seconds", "0.1", "--json")
    run = call("run", *short, "--random", "--tuned", "--profile")
    facts = json.loads(run.stdout)
    assert told in run.stderr
    assert [row["algorithm"] for row in facts["profile"]["rows"] if row["name"] == "conv"] == [favourite[0]]
    assert [record.get("tuned") for record in facts["records"] if record["engine"] == "waterline"] == [True]
    for flags in ((), ("--tuned",)):
        (record,) = json.loads(call("bench", *short, "-", *flags).stdout)
        assert record["tuned"] is bool(flags)
    assert "waterline, tuned" in call("bench", small_model, "--seconds", "0.1", "--tuned").stdout


def test_a_flag_without_measured_times_says_so(call, fresh: Path, small_model: Path) -> None:
    result = call("profile", small_model, "--seconds", "0.1", "--tuned")
    expected = f"0 of 2 layers are chosen by measured times; `waterline tune {small_model}` measures the others\n"
    assert result.stderr == f"{small_model}: {expected}"
    assert result.returncode == 0


def profiled(call, model: Path, *flags: str) -> str:
    """The algorithm that the convolution was run with."""
    report = json.loads(call("profile", model, "--seconds", "0.1", "--json", *flags).stdout)
    return next(row["algorithm"] for row in report["rows"] if row["name"] == "conv")
