"""The search for ConvFirst's widths and depths: its counts, its formula, and the command on a space of two."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest

from waterline import models
from waterline.bench.convfirst_search import __main__ as command
from waterline.bench.convfirst_search import price, space, tables
from waterline.machine import CATALOGUE
from waterline.models import ConvFirstConfig
from waterline.models.convfirst_family import FAMILY

SERVER, PHONE = CATALOGUE[0], CATALOGUE[-1]
SIZES = {name: space.SIZES[name] for name in ("convfirst_tiny", "convfirst_small")}
CONFIGS = {
    **FAMILY,
    "stem of stride 2": ConvFirstConfig((1, 2), (32, 64), stem_stride=2),
    "5x5, groups of 16": ConvFirstConfig((2, 1), (32, 48), group_width=16, kernel=5),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_counts_are_the_model_s(config: ConvFirstConfig) -> None:
    model = models.build_convfirst(config, seed=None)
    learnt = [each for each in model.graph.initializer if "running" not in each.name]
    macs, parameters = space.complexity(config)
    assert parameters == sum(math.prod(each.dims) for each in learnt)
    network = models.network.Network("counted", space.IMAGE_SIZE, None)
    models.modern.convfirst(network, config)
    specs = [spec for _, spec in network.convolutions]
    assert macs == sum(spec.macs for spec in specs) + config.head_width * space.CLASSES  # and the classifier
    assert space.grouped_share(config) == sum(spec.macs for spec in specs if spec.groups > 1) / macs


@pytest.mark.parametrize("size", space.SIZES)
def test_the_family_is_in_the_space_and_of_one_kind(size: str) -> None:
    config = FAMILY[size]
    found = list(space.candidates(space.SIZES[size]))
    assert config in found
    assert len(set(found)) == len(found) > 100
    for each in found[::50]:
        assert_is_within(each, space.SIZES[size])
    assert command.kind_of(config) == command.kind_of(FAMILY[command.SMALLEST])


def assert_is_within(config: ConvFirstConfig, size: space.Size) -> None:
    macs, parameters = space.complexity(config)
    assert size.macs[0] <= macs <= size.macs[1]
    assert size.parameters[0] <= parameters <= size.parameters[1]
    assert sum(config.depths) >= size.least_blocks
    assert all(1.5 <= b / a <= 2.5 for a, b in itertools.pairwise(config.widths))


def test_a_block_without_limits_of_memory_pays_for_its_activation_alone() -> None:
    """Two multiply-adds a cycle: a hidden vector of c channels takes c cycles, and 10 for SiLU."""
    c, elems = 512, 1 << 20
    work = space.Work(macs=2 * c * elems, grouped_macs=0, parameters=0, in_elems=0, out_elems=0, silu_elems=elems)
    ideal = 2 * work.macs / SERVER.peak()
    assert price._seconds(work, SERVER, 1) == pytest.approx(ideal * (c + 10) / c)


def test_memory_bounds_a_kernel_that_moves_more_than_it_computes() -> None:
    work = space.Work(macs=10, grouped_macs=0, parameters=0, in_elems=1 << 26, out_elems=0, silu_elems=0)
    assert price._seconds(work, SERVER, 1) == pytest.approx((4 << 26) / SERVER.bytes_per_s("dram"))


def test_wider_is_more_attainable_and_nothing_exceeds_the_peak() -> None:
    narrow, wide = (ConvFirstConfig((2, 2), (c, 2 * c)) for c in (32, 128))
    for machine, batch in itertools.product(CATALOGUE, price.BATCHES):
        assert 0 < price.attainable(narrow, machine, batch) < price.attainable(wide, machine, batch) < 1


def test_predictions_are_those_of_analyse() -> None:
    config = ConvFirstConfig((1, 1), (32, 64), head_width=64)
    found = price.price(config, [SERVER, PHONE], "small")
    assert [(figure.machine, figure.batch) for figure in found.figures] == [
        (machine.name, batch) for batch in price.BATCHES for machine in (SERVER, PHONE)
    ]
    for figure in found.figures:
        machine = SERVER if figure.machine == SERVER.name else PHONE
        latency_ms = 2e3 * figure.batch * found.macs / (machine.peak() * figure.predicted)
        assert figure.latency_ms == pytest.approx(latency_ms)
        assert figure.attainable is not None
        assert figure.predicted < 1
        assert figure.attainable < 1


def test_finalists_are_the_best_of_each_kind() -> None:
    grouped = [ConvFirstConfig((2, 2), (c, 2 * c)) for c in (32, 64, 128)]
    other = ConvFirstConfig((2, 2), (32, 64), group_width=16)
    assert command.finalists([*grouped, other], 2) == [grouped[2], grouped[1], other]


@pytest.fixture
def small_space(monkeypatch: pytest.MonkeyPatch) -> None:
    configs = [ConvFirstConfig((1, 1), (32, 64), head_width=64)]
    family = {name: ConvFirstConfig((1, 3), (32, 64), head_width=64) for name in SIZES}
    monkeypatch.setattr(command, "candidates", lambda size: iter(configs))
    monkeypatch.setattr(command, "SIZES", SIZES)
    monkeypatch.setattr(command, "CATALOGUE", (SERVER,))
    monkeypatch.setattr(command, "FAMILY", family)
    monkeypatch.setattr(command, "REFERENCE", "squeezenet1_1")


@pytest.mark.usefixtures("small_space")
def test_the_command_fills_a_page(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    page, records = tmp_path / "page.md", tmp_path / "found.jsonl"
    page.write_text(f"before\n{tables.BEGIN}\nold\n{tables.END}\nafter\n", encoding="utf-8")
    assert command.main(["--fill", str(page), "--append", str(records)]) == 0
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert capsys.readouterr().out.strip() in text
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| **1-3** |")]
    assert len(rows) == len(SIZES)
    assert "`squeezenet1_1`" in text
    assert len(records.read_text(encoding="utf-8").splitlines()) == 2 * len(SIZES)
    assert command.main(["--fill", str(page)]) == 0
    assert page.read_text(encoding="utf-8") == text


def test_a_page_without_a_place_is_said_before_the_work(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing", encoding="utf-8")
    assert command.main(["--fill", str(page)]) == 2
    complaint, hint = capsys.readouterr().err.splitlines()
    assert "has no place for the tables" in complaint
    assert tables.BEGIN in hint
