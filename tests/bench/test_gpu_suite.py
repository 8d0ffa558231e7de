"""The command that measures GPU kernels, as far as it goes without a GPU: every kernel is run and checked."""

from __future__ import annotations

import torch

from waterline.bench import gpu_suite, records

LAYERS = ["n1_c16_h5_w4_k16_r3_s3_st1_pd1_dl1_g1", "n1_c16_h4_w4_k16_r3_s3_st1_pd1_dl1_g2"]


def test_every_kernel_is_checked_and_recorded(tmp_path, capsys):
    file = tmp_path / "gpu.jsonl"
    layers = tmp_path / "layers.txt"
    layers.write_text("# two\n" + "\n".join(LAYERS) + "\n")
    status = gpu_suite.main(["--conv", str(layers), "--precision", "f16", "--append", str(file)])
    assert status == 0, capsys.readouterr()
    found = records.read(file)
    assert {record["algorithm"] for record in found} >= {"indirect", "winograd:f2x2", "winograd:f4x4", "grouped"}
    assert all(record["disagreement"] <= 1 and "warm_ms" not in record for record in found)
    text = capsys.readouterr().out
    assert all(f"{layer}_f32" in text for layer in LAYERS)


def test_a_wrong_result_is_an_error(monkeypatch, capsys):
    def spoiled(case, algorithm, config, gpu):
        return lambda: void(case.y.fill_(3.0))

    def void(_: torch.Tensor) -> None:
        return None

    monkeypatch.setattr(gpu_suite, "ours", spoiled)
    assert gpu_suite.main(["--conv", LAYERS[0], "--precision", "f16", "--algorithm", "indirect"]) == 1
    assert "of the bound" in capsys.readouterr().out


def test_time_that_runs_out_is_said(capsys):
    assert gpu_suite.main(["--conv", *LAYERS, "--precision", "f16", "--seconds", "0"]) == 0
    assert capsys.readouterr().err.count("left for want of time") == 2


def test_mistakes(capsys):
    for words, message in (
        (["--conv", LAYERS[0], "--precision", "f8"], "precision 'f8'"),
        (["--conv", LAYERS[0], "--algorithm", "fast"], "algorithm 'fast'"),
        (["--conv", LAYERS[0], "--precision", "f16", "--algorithm", "depthwise"], "no algorithm serves"),
    ):
        assert gpu_suite.main(words) == 2
        assert message in capsys.readouterr().err
