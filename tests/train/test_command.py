"""`waterline train` as a user meets it: output, files, options, mistakes; and processes that are killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import ARGUMENTS

import waterline
from waterline.cli.main import entry
from waterline.train import saving, vision

Call = Callable[..., tuple[int, str, str]]
SECONDS = 240  # that another process may take on a busy machine


@pytest.fixture
def call(capfd: pytest.CaptureFixture) -> Call:
    """Runs a command in this process: exit status, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        status = entry([str(each) for each in arguments])
        return (status, *capfd.readouterr())

    return run


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return saving.load_model(folder / "model.pt")[0].state_dict()


def assert_same(one: Path, other: Path) -> None:
    expected = weights(other)
    for name, value in weights(one).items():
        assert torch.equal(value, expected[name]), name


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of one process without interruption."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("whole")
    assert entry([*ARGUMENTS, "-o", str(folder)]) == 0
    torch.set_num_threads(before)
    return folder


# ---- what it gives ---------------------------------------------------------------------------------------------------
def test_text_and_files(call: Call, tmp_path: Path, whole: Path) -> None:
    status, out, err = call(*ARGUMENTS, "--onnx", "model.onnx")
    assert status == 0
    pytorch, ours, file, exported = out.splitlines()
    assert pytorch.startswith("accuracy in PyTorch: ")
    assert "the same class for every image" in ours
    assert pytorch.split(":")[1].split("%")[0].strip() == ours.split(":")[1].split("%")[0].strip()
    assert (file, exported) == (f"weights: {Path('runs/convfirst-digits-128/model.pt')}", "ONNX model: model.onnx")
    lines = err.splitlines()
    assert lines[0].startswith("convfirst_tiny, 0.00 million parameters; digits:128: 128 images for training and 32")
    assert lines[1].startswith("epoch 1 of 2: loss ")
    assert lines[2].endswith("0 s left")
    folder = tmp_path / "runs" / "convfirst-digits-128"
    names = {path.name for path in folder.iterdir()}
    assert names == {"checkpoint-000000004.pt", "checkpoint-000000008.pt", "model.pt", "tensorboard"}
    assert_same(folder, whole)
    onnx.checker.check_model(onnx.load("model.onnx"))
    x = np.random.default_rng(0).standard_normal((2, 3, 16, 16), np.float32)
    expected = saving.load_model(folder / "model.pt")[0](torch.from_numpy(x)).detach().numpy()
    assert waterline.Session("model.onnx").run(None, {"input": x})[0] == pytest.approx(expected, abs=1e-5)


def test_json(call: Call) -> None:
    status, out, _ = call(*ARGUMENTS, "--json", "--no-tensorboard", "--ema-decay", "0", "-o", "here", "--seed", "5")
    facts = json.loads(out)
    assert status == 0
    assert (facts["model"], facts["classes"], facts["images"], facts["differing"]) == ("convfirst_tiny", 10, 32, 0)
    assert facts["pytorch_accuracy"] == facts["waterline_accuracy"] == facts["history"][-1]["val_accuracy"]
    assert [each["epoch"] for each in facts["history"]] == [0, 1]
    assert (facts["recipe"]["seed"], facts["recipe"]["ema_decay"], facts["recipe"]["epochs"]) == (5, 0.0, 2)
    assert not Path("here/tensorboard").exists()


def test_resuming(call: Call, whole: Path) -> None:
    assert call(*ARGUMENTS, "-o", "run", "--resume")[0] == 0
    status, _, err = call(*ARGUMENTS, "-o", "run")
    assert (status, err.splitlines()[-2:]) == (
        2,
        [
            f"waterline: {Path('run/checkpoint-000000008.pt')} is there already",
            "hint: --resume goes on with it, or use another folder",
        ],
    )
    for path in Path("run").glob("*8.pt"):
        path.write_bytes(path.read_bytes()[:4000])
    status, _, err = call(*ARGUMENTS, "-o", "run", "--resume")
    assert status == 0
    assert f"{Path('run/checkpoint-000000008.pt')} is torn; the checkpoint before it is taken" in err
    assert "going on after step 4 of 8, in epoch 2" in err
    assert_same(Path("run"), whole)


# ---- mistakes --------------------------------------------------------------------------------------------------------
MISTAKES = {
    "convfirst": ("--data", "--help"),
    "convfrist --data digits": ("'convfrist'", "convfirst"),
    "convfirst --data no/such/folder": ("no/such/folder", "train/"),
    "convfirst --data CIFAR10": ("CIFAR10 is not in data", "--download"),
    "convfirst --data empty": ("empty/train", "CLASS"),
    "convfirst --data digits --image-size 16": ("images of 16x16 are too small for convfirst_tiny", "32"),
    "convfirst --data digits --depths 1,1": ("2 depths and 4 widths", "each"),
    "convfirst --data digits --batch-size 5000": ("more than the 1437", "1437"),
    "convfirst --data digits --epochs 0": ("epochs is 0", "at least 1"),
    "convfirst --data digits --epochs many": ("'many'", "--help"),
    "convfirst --data digits --label-smoothing 2": ("label_smoothing", "0 to 0.999"),
    "convfirst --data digits --onnx my.onnx --batch-size 9999": ("more than the 1437", "1437"),
    "convfirst --data digits --precision float16": ("float16 is for GPUs", "bfloat16"),
    "convfirst --data digits --device gpu": ("'gpu'", "cuda"),
    "convfirst --data digits --lerning-rate 1": ("--lerning-rate", "--learning-rate"),
    "convfirst --data digits --onnx no/such/file.onnx": ("no/such/file.onnx", "path"),
    "convnext --data digits --expansion 2": ("no expansion", "ConvFirst"),
}


@pytest.mark.parametrize("words", MISTAKES)
def test_mistakes(call: Call, words: str) -> None:
    Path("empty").mkdir()
    message, hint = MISTAKES[words]
    status, out, err = call("train", *words.split())
    assert (status, out) == (2, "")
    *_, first, second = err.splitlines()
    assert "Traceback" not in err
    assert first.startswith("waterline: ")
    assert message in first
    assert second.startswith("hint: ")
    assert hint in second
    assert [path.name for path in Path().iterdir()] == ["empty"]


def test_resuming_with_other_settings(call: Call, whole: Path) -> None:
    status, _, err = call(*ARGUMENTS, "-o", whole, "--resume", "--mixup", "0.9", "--batch-size", "64")
    assert status == 2
    assert "made with batch_size 32, not 64; mixup 0.2, not 0.9" in err
    assert "hint: resume with the settings of the first call" in err


@pytest.mark.parametrize("package", ["torchvision", "tensorboard", "sklearn"])
def test_a_missing_package(call: Call, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """As if it was not installed, and never imported."""
    for name in list(sys.modules):
        if name.partition(".")[0] == package or name.startswith(f"torch.utils.{package}"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    vision.module.cache_clear()
    status, out, err = call(*ARGUMENTS)
    vision.module.cache_clear()
    assert (status, out) == (2, ""), err
    *_, first, second = err.splitlines()
    assert "not installed" in first
    assert "waterline[train]" in second


def test_without_pytorch() -> None:
    code = (
        f"import sys; sys.modules['torch'] = None; from waterline.cli.main import entry; sys.exit(entry({ARGUMENTS}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=SECONDS, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "waterline: training needs PyTorch, which is not installed",
        "hint: pip install 'waterline[train]'",
    ]


# ---- kills -----------------------------------------------------------------------------------------------------------
def test_kill_while_a_checkpoint_is_written(call: Call, whole: Path) -> None:
    """In the second epoch, half way through the file: SIGKILL, as from a machine that is taken away."""
    code = (
        "import os, signal, sys, torch\n"
        "from waterline.cli.main import entry\n"
        "real = torch.save\n"
        "def save(state, file):\n"
        "    real(state, file)\n"
        "    if state['epoch'] == 1 and state['position'] == 2:\n"
        "        file.truncate(file.tell() // 2)\n"
        "        file.flush()\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "torch.save = save\n"
        f"entry({[*ARGUMENTS, '-o', 'run', '--checkpoint-steps', '1']!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert Path("run/checkpoint-000000006.tmp").exists()
    status, _, err = call(*ARGUMENTS, "-o", "run", "--checkpoint-steps", "1", "--resume")
    assert status == 0
    assert "going on after step 5 of 8, in epoch 2" in err
    assert_same(Path("run"), whole)
    assert not list(Path("run").glob("*.tmp"))


WORKER = """
import os, sys
from waterline.cli.main import entry
open(f"worker.{os.getpid()}", "w").close()  # torchrun gives its workers sessions of their own: this finds them
sys.exit(entry(sys.argv[1:]))
"""


def two_processes(rank: int, folder: Path) -> None:
    """One of them: joined without torchrun."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}.store", rank=rank, world_size=2)
    assert entry([*ARGUMENTS, "-o", str(folder), "--no-tensorboard"]) == 0
    torch.distributed.destroy_process_group()


def test_two_processes_and_a_kill_in_the_middle_of_an_epoch(call: Call, tmp_path: Path) -> None:
    """torchrun, Gloo. All processes are killed as soon as there is a checkpoint within the second epoch."""
    context = multiprocessing.get_context("fork")  # which has nothing to import
    together = [context.Process(target=two_processes, args=(rank, tmp_path / "whole")) for rank in range(2)]
    for process in together:
        process.start()
    Path("worker.py").write_text(WORKER)
    one_machine = ("--nnodes", "1", "--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0")
    arguments = (*ARGUMENTS, "-o", "run", "--checkpoint-steps", "1")
    start = [sys.executable, "-m", "torch.distributed.run", *one_machine, "worker.py", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with open("log", "w") as log, subprocess.Popen(start, stdout=log, stderr=log, env=environment) as killed:
        until = time.monotonic() + SECONDS
        while not Path("run/checkpoint-000000005.pt").exists():
            assert killed.poll() is None, Path("log").read_text()
            assert time.monotonic() < until, Path("log").read_text()
            time.sleep(0.005)
        workers = [int(path.suffix[1:]) for path in Path().glob("worker.*[0-9]")]
        assert len(workers) == 2
        for pid in (killed.pid, *workers):
            os.kill(pid, signal.SIGKILL)
    assert not Path("run/model.pt").exists()
    for process in together:
        process.join()
        assert process.exitcode == 0
    resumed = subprocess.run(
        [*start, "--resume"], capture_output=True, text=True, timeout=SECONDS, check=False, env=environment
    )
    assert resumed.returncode == 0, resumed.stderr
    assert "2 processes" in resumed.stderr
    assert "going on after step" in resumed.stderr
    assert "the same class for every image" in resumed.stdout
    assert resumed.stdout.count("accuracy in PyTorch") == 1  # one of them talks
    assert_same(Path("run"), Path("whole"))
    status, _, err = call(*arguments, "--resume")
    assert status == 2
    assert "made with processes 2, not 1" in err
