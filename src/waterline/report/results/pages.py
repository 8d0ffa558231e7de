"""The page of results: every table that the records allow, machine by machine, with hand-written texts between them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from waterline.bench.experiments import EXPERIMENTS
from waterline.bench.layers import read as read_layers
from waterline.bench.records import Record
from waterline.errors import InvalidArgument
from waterline.report import experiments
from waterline.report.results import tables
from waterline.report.results.gpu import GpuMachine
from waterline.report.results.gpu import section as gpu_section
from waterline.report.results.pictures import markup, pictures
from waterline.report.results.runs import Machine, anchor, newest, source
from waterline.report.tables import Table

Texts = Mapping[str, str]
INTRODUCTION = "introduction"


@dataclass(frozen=True)
class Section:
    """A heading and its table.

    Attributes:
        key: of its text. file: of its records, without the suffix.
        select: of a machine, the records to show; none: the section is left out.
    """

    key: str
    heading: str
    file: str
    select: Callable[[Machine], list[Record]]
    table: Callable[[Sequence[Record]], Table]


def sections(layers: Path) -> list[Section]:
    """All but the experiments, in their order. `layers`: the folder of lists of layers."""

    def of_layers(name: str, accept: Callable[[Sequence[Record]], bool]) -> Callable[[Machine], list[Record]]:
        ids = [spec.id for spec in read_layers(layers / f"{name}.txt")]
        return lambda machine: tables.selected(machine.files.get("layers", ()), ids, accept)

    def of(file: str, protocol: str | None) -> Callable[[Machine], list[Record]]:
        return lambda machine: machine.of(file, protocol)

    winograd = of_layers("winograd_networks", tables.several_peers)
    direct = of_layers("resnet50", tables.only_direct)
    group = of_layers("grouped", tables.only("grouped"))
    fft = of_layers("fft", lambda _: True)
    return [
        Section("networks", "Networks", "networks", of("networks", None), tables.networks),
        Section("layers 3x3", "3x3 layers of networks", "layers", winograd, tables.against_peers),
        Section("layers direct", "Layers of ResNet-50, direct algorithms", "layers", direct, tables.share_of_peak),
        Section("layers grouped", "Grouped layers", "layers", group, tables.share_of_peak),
        Section("layers fft", "Large filters and long lines", "layers", fft, tables.calls),
        Section("overhead", "Overhead of a call", "overhead", of("overhead", "overhead"), tables.overhead),
        Section("startup", "Start-up and memory", "startup", of("startup", "startup"), tables.startup),
        Section("accuracy", "Accuracy", "accuracy", of("accuracy", "accuracy"), tables.accuracy),
        Section("tuned", "Tuned against untuned", "tuning", of("tuning", "tuning"), tables.tuned),
        Section("tuning", "Tuned against untuned, layers", "tuning", of("tuning", "waterline tune"), tables.tuning),
    ]


def keys(layers: Path) -> list[str]:
    """Those that texts may have."""
    return [INTRODUCTION, *(section.key for section in sections(layers)), *map(_experiment_key, EXPERIMENTS)]


def page(machines: Sequence[Machine], layers: Path, texts: Texts, gpus: Sequence[GpuMachine] = ()) -> str:
    """The page, without its title.

    Args:
        machines: as `runs.read` gives them. gpus: as `gpu.read` does. layers: the folder of lists of layers.
        texts: section -> what is said of it, in Markdown: once, where the section is first.

    Raises:
        InvalidArgument: a text for a section that there is not.
    """
    unknown = set(texts) - set(keys(layers))
    if unknown:
        raise InvalidArgument(f"there is no section {min(unknown)!r}", f"sections are {', '.join(keys(layers))}")
    lines = [texts.get(INTRODUCTION, ""), ""]
    for machine in machines:
        last = max(record["date"] for found in machine.files.values() for record in found)
        lines.append(f"* [{machine.title}](#{anchor(machine.title)}): {machine.describe()}. Last measured {last[:10]}.")
    for gpu in gpus:
        last = max(record["date"] for found in gpu.files.values() for record in found)
        lines.append(f"* [{gpu.title}](#{anchor(gpu.title)}): {gpu.describe()}. Last measured {last[:10]}.")
    said: set[str] = set()
    for machine in machines:
        lines += ["", f"## {machine.title}"]
        everything = [record for found in machine.files.values() for record in newest(found)]
        versions = tables.versions_of(everything)
        if versions:
            lines += ["", f"Peers: {', '.join(f'{name} {version}' for name, version in versions.items())}."]
        for section in sections(layers):
            found = section.select(machine)
            if found:
                lines += ["", f"### {section.heading}", "", source(section.file, found) + "."]
                lines += _text(section.key, texts, said)
                lines += ["", section.table(found).to_markdown()]
        drawn = pictures(machine)
        for name, (file, found) in machine.experiments.items():
            lines += ["", f"### Experiment `{name}`", "", f"{EXPERIMENTS[name]}. {source(file, found)}; "]
            lines[-1] += f"[what is measured](experiments.md#{name})."
            lines += _text(_experiment_key(name), texts, said)
            for stem, (what, _) in drawn.get(name, {}).items():
                lines += ["", markup(stem, what)]
            for table in experiments.tables(found):
                lines += ["", table.to_markdown()]
    for gpu in gpus:
        lines += gpu_section(gpu)
    return "\n".join(lines) + "\n"


def networks_block(machines: Sequence[Machine]) -> str:
    """The networks' table of the machine that was measured last, with what it rests on, for a page of another kind."""
    machine = next((each for each in machines if each.of("networks")), None)
    if machine is None:
        raise InvalidArgument("there are no records of networks", "`make records` measures them")
    found = machine.of("networks")
    peers = ", ".join(f"{name} {version}" for name, version in tables.versions_of(found).items())
    return (
        f"{machine.title} ({machine.summary}), against {peers}; {source('networks', found)}:\n\n"
        f"{tables.networks(found).to_markdown()}"
    )


def read_texts(path: Path) -> dict[str, str]:
    """The texts of a Markdown file: what stands below each heading `## key`."""
    parts = re.split(r"^## (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {key.strip(): text.strip() for key, text in zip(parts[1::2], parts[2::2], strict=True)}


def _experiment_key(name: str) -> str:
    return f"experiment {name}"


def _text(key: str, texts: Texts, said: set[str]) -> list[str]:
    if key in said or key not in texts:
        return []
    said.add(key)
    return ["", texts[key]]
