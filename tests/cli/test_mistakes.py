"""Mistakes: exit status 2, one line that says what is wrong, one hint, nothing on stdout, never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from waterline.cli import info

SPEC = "n1_c8_h8_w8_k8_r3_s3_st1_pd1_dl1_g1_f32"

# arguments -> what the message says, what the hint says
MISTAKES: dict[str, tuple[str, str]] = {
    "": ("COMMAND", "--help"),
    "frobnicate": ("frobnicate", "commands are info"),
    "benhc resnet18": ("benhc", "`waterline bench`"),
    "tnue resnet18": ("tnue", "`waterline tune`"),
    "info extra": ("extra", "--help"),
    "info --jsno": ("--jsno", "--json"),
    "run": ("MODEL", "--help"),
    "run resnet15": ("no network and no file named 'resnet15'", "resnet"),
    "run nothing/there.onnx": ("nothing/there.onnx", "the zoo has"),
    "run .": ("directory", "ONNX"),
    "run resnet18 --threads 0": ("'0'", "--help"),
    "run resnet18 --threads -1": ("'-1'", "--help"),
    "run resnet18 --threads two": ("'two'", "--help"),
    "run resnet18 --batch 0": ("'0'", "--help"),
    "run resnet18 --seconds 0": ("'0'", "--help"),
    "run resnet18 --seconds nan": ("'nan'", "--help"),
    "run resnet18 --seconds inf": ("'inf'", "--help"),
    "run resnet18 --image": ("--image", "--help"),
    "run resnet18 --image nothing.jpg": ("'nothing.jpg'", "image file"),
    "run resnet18 --image .": ("directory", "image file"),
    "run resnet18 --image a.jpg --random": ("not allowed with", "--help"),
    "run resnet18 --image-size 8": ("at least 32x32", "224"),
    "run convnext_tiny --dtype float31 --random --image-size 32": ("float31", "float32"),
    "bench": ("either MODEL", "--help"),
    f"bench resnet18 --conv {SPEC}": ("either MODEL", "--help"),
    "bench resnet18 --vs onxruntime": ("'onxruntime'", "onnxruntime"),
    "bench resnet18 --algorithm indirect": ("--algorithm", "--conv"),
    "bench --conv n1_c8": ("'n1_c8'", "n1_c64"),
    "bench --conv .": ("directory", "file"),
    f"bench --conv {SPEC} --algorithm indirct": ("'indirct'", "indirect"),
    f"bench --conv {SPEC.replace('f32', 'f64')}": ("f64", ""),
    "bench resnet18 --threads 4096": ("4096", "at most"),
    "bench resnet18 --batch 1,,2": ("''", "--help"),
    "bench resnet18 --json no/such/folder/file.json": ("no/such/folder/file.json", "path"),
    "tune": ("MODEL", "--help"),
    "tune resnet15": ("no network and no file named 'resnet15'", "resnet"),
    "tune resnet18 --seconds 0": ("'0'", "--help"),
    "tune resnet18 --seconds soon": ("'soon'", "--help"),
    "tune resnet18 --accuracy exact": ("'exact'", "--help"),
    "tune resnet18 --batch 0": ("'0'", "--help"),
    "tune resnet18 --dtype int8": ("int8", "float32"),
    "tune squeezenet1_1 --image-size 32 --threads 99999": ("99999", "1024"),
    "tune resnet18 --agian": ("--agian", "--again"),
    "explain resnet18 --tune": ("--tune", "--tuned"),
    "check": ("either MODEL", "--help"),
    "check --conv": ("--conv", "--help"),
    f"check --conv {SPEC} --algorithm quantum": ("'quantum'", "algorithms are"),
    f"check --conv {SPEC} --algorithm depthwise": ("no algorithm", "--algorithm"),
    "profile resnet18 --json --csv": ("not allowed with", "--help"),
    "explain resnet18 --threads 99999": ("99999", "1024"),
}


def check_mistake(result: subprocess.CompletedProcess, message: str, hint: str) -> None:
    lines = result.stderr.splitlines()
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert len(lines) == (2 if hint else len(lines)), result.stderr
    assert lines[0].startswith("waterline: ")
    assert message in lines[0]
    if hint:
        assert lines[1].startswith("hint: ")
        assert hint in lines[1]


@pytest.mark.parametrize("arguments", MISTAKES)
def test_a_mistake(call, arguments: str) -> None:
    result = call(*arguments.split())
    check_mistake(result, *MISTAKES[arguments])
    assert "refused" in result.stdout or not result.stdout


def test_a_file_that_is_no_image(call, tmp_path: Path, small_model: Path) -> None:
    (tmp_path / "text.jpg").write_text("this is text")
    check_mistake(call("run", small_model, "--image", tmp_path / "text.jpg"), "not an image", "JPEG")


def test_half_an_image(call, tmp_path: Path, small_model: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    image.effect_noise((300, 200), 50).convert("RGB").save(tmp_path / "whole.jpg")
    (tmp_path / "half.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:3000])
    check_mistake(call("run", small_model, "--image", tmp_path / "half.jpg"), "cannot be read", "whole")


def test_a_file_that_is_no_model(call, tmp_path: Path, small_model: Path) -> None:
    (tmp_path / "text.onnx").write_text("this is text")
    (tmp_path / "half.onnx").write_bytes(small_model.read_bytes()[:200])
    (tmp_path / "empty.onnx").write_bytes(b"")
    for name in ("text", "half", "empty"):
        check_mistake(call("explain", tmp_path / f"{name}.onnx"), "", "")


def test_a_model_that_cannot_be_read(call, tmp_path: Path, small_model: Path) -> None:
    path = tmp_path / "secret.onnx"
    path.write_bytes(small_model.read_bytes())
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    check_mistake(call("explain", path), "secret.onnx", "")


def test_an_instruction_set_that_is_unknown(start) -> None:
    check_mistake(start("info", WATERLINE_ISA="mmx"), "'mmx'", "avx2")


def test_a_reader_that_goes_away() -> None:
    """As `waterline info | head -1` may do: no traceback, not even from the interpreter's last flush."""
    read, write = os.pipe()
    os.close(read)
    process = subprocess.run(
        [sys.executable, "-m", "waterline.cli.main", "info"],
        stdout=write, stderr=subprocess.PIPE, text=True, timeout=120, check=False,
    )  # fmt: skip
    os.close(write)
    assert process.returncode == 1
    assert process.stderr == ""


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyboardInterrupt(), "waterline: interrupted"),
        (MemoryError(), "waterline: out of memory"),
        (ZeroDivisionError("two\nlines"), "waterline: internal error: ZeroDivisionError: two lines"),
    ],
    ids=["interruption", "memory", "bug"],
)
def test_what_nobody_expects(call, monkeypatch: pytest.MonkeyPatch, error: BaseException, message: str) -> None:
    def execute(arguments: object) -> int:
        raise error

    monkeypatch.setattr(info, "execute", execute)
    result = call("info")
    assert result.returncode == 1
    assert result.stderr.splitlines()[0] == message
    assert "Traceback" not in result.stderr


def test_another_process(start) -> None:
    check_mistake(start("run", "resnet15"), "resnet15", "did you mean resnet")
