"""Tables of the papers' experiments, beside what the papers published: a module for each experiment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from waterline.bench.records import Record
from waterline.report.experiments import winograd
from waterline.report.tables import Table

# protocol -> the table of its records. Each module has `TABLES` of its own protocols.
_TABLES: Mapping[str, Callable[[Sequence[Record]], Table]] = {**winograd.TABLES}


def tables(records: Sequence[Record]) -> list[Table]:
    """A table for each protocol that the records are of, in their order."""
    protocols = dict.fromkeys(record["protocol"] for record in records)
    return [_TABLES[name]([record for record in records if record["protocol"] == name]) for name in protocols]
