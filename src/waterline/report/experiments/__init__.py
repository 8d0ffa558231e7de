"""Tables of the papers' experiments, beside what the papers published: a module for each experiment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from waterline.bench.records import Record
from waterline.report.experiments import efficiency, fusion, indirect, maxdnn, training, winograd
from waterline.report.tables import Table

# protocol -> the table, or the tables, of its records. Each module has `TABLES` of its own protocols.
_TABLES: Mapping[str, Callable[[Sequence[Record]], Table | list[Table]]] = {
    **winograd.TABLES,
    **indirect.TABLES,
    **maxdnn.TABLES,
    **efficiency.TABLES,
    **fusion.TABLES,
    **training.TABLES,
}


def tables(records: Sequence[Record]) -> list[Table]:
    """The tables of each protocol that the records are of, in their order."""
    found: list[Table] = []
    for protocol in dict.fromkeys(record["protocol"] for record in records):
        made = _TABLES[protocol]([record for record in records if record["protocol"] == protocol])
        found += [made] if isinstance(made, Table) else made
    return found
