"""The command: searches each size, prints the tables, fills the page."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from waterline.bench.command import entry, keep, positive
from waterline.bench.convfirst_search.price import BATCHES, Priced, attainable, price, price_of_zoo
from waterline.bench.convfirst_search.space import SIZES, candidates
from waterline.bench.convfirst_search.tables import candidates_table, check_page, family_table, fill, machines_table
from waterline.bench.records import Record
from waterline.bench.timing import geometric_mean
from waterline.machine import CATALOGUE
from waterline.models import ConvFirstConfig
from waterline.models.convfirst_family import FAMILY

PROTOCOL = "convfirst search"
REFERENCE = "convnext_tiny"
SMALLEST = next(iter(SIZES))


def kind_of(config: ConvFirstConfig) -> tuple[int, ...]:
    """What the members of a family have in common: group width, expansion, kernel, stem stride."""
    return config.group_width, config.expansion, config.kernel, config.stem_stride


def finalists(configs: Iterable[ConvFirstConfig], count: int) -> list[ConvFirstConfig]:
    """Of each kind the `count` of the highest attainable efficiency, as the mean over machines and batches."""

    def score(config: ConvFirstConfig) -> float:
        return geometric_mean([attainable(config, *each) for each in itertools.product(CATALOGUE, BATCHES)])

    kinds: dict[tuple[int, ...], list[ConvFirstConfig]] = {}
    for config in configs:
        kinds.setdefault(kind_of(config), []).append(config)
    return [config for kind in kinds.values() for config in sorted(kind, key=score, reverse=True)[:count]]


def search(size: str, count: int) -> list[Priced]:
    """The finalists of a size and the one in the zoo, the best first. The larger sizes are of the smallest's kind."""
    found = candidates(SIZES[size])
    if size != SMALLEST:
        found = (config for config in found if kind_of(config) == kind_of(FAMILY[SMALLEST]))
        count = 3 * count  # of one kind only
    chosen = list(dict.fromkeys([*finalists(found, count), FAMILY[size]]))
    priced = []
    for number, config in enumerate(chosen, 1):
        print(f"{size}: planning {number} of {len(chosen)}", file=sys.stderr, flush=True)
        priced.append(price(config, CATALOGUE, size if config == FAMILY[size] else ""))
    return sorted(priced, key=Priced.mean_predicted, reverse=True)


def record_of(size: str, priced: Priced) -> Record:
    """A prediction as a record: it names no run."""
    return {"protocol": PROTOCOL, "size": size, **asdict(priced)}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", choices=list(SIZES), help="only this one (default: all, and the tables of machines)")
    parser.add_argument(
        "--finalists", type=positive, default=2, metavar="N", help="of each kind that are planned (default: 2)"
    )
    parser.add_argument("--fill", type=Path, metavar="FILE", help="write the tables between the marks of this page")


def execute(arguments: argparse.Namespace) -> int:
    if arguments.fill:
        check_page(arguments.fill)
    sizes = [arguments.size] if arguments.size else list(SIZES)
    found = {size: search(size, arguments.finalists) for size in sizes}
    keep(arguments.append, [record_of(size, each) for size, priced in found.items() for each in priced])
    parts = [
        f"### `{size}` and what it was chosen from\n\n{candidates_table(priced)}" for size, priced in found.items()
    ]
    if not arguments.size:
        family = [next(each for each in priced if each.name) for priced in found.values()]
        reference = price_of_zoo(REFERENCE, CATALOGUE)
        parts = [
            f"### The family\n\n{family_table([*family, reference])}",
            f"### Predicted, on every machine\n\n{machines_table(family, reference)}",
            *parts,
        ]
    block = "\n\n".join(parts)
    print(block)
    if arguments.fill:
        page = arguments.fill.read_text(encoding="utf-8")
        arguments.fill.write_text(fill(page, block, str(arguments.fill)), encoding="utf-8")
    return 0


def main(argv: list[str] | None = None) -> int:
    name = "convfirst_search"
    return entry(name, "The most efficient ConvFirst networks for their operations.", configure, execute, argv)


if __name__ == "__main__":
    sys.exit(main())
