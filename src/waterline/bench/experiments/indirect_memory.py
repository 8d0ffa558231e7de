"""Memory of im2col's patches against that of the indirection buffer, in bytes as this library allocates them."""

from __future__ import annotations

from collections.abc import Sequence

from waterline.algorithms import by_name
from waterline.bench.experiments.indirect_paper import POINTWISE, memory_ratio
from waterline.bench.experiments.indirect_time import NetworkLayer
from waterline.bench.experiments.one_layer import as_run, views_of
from waterline.bench.records import Record
from waterline.machine import Machine

PROTOCOL = "experiment indirect: memory"
BATCHES = (1, 8)


def measure(layers: Sequence[NetworkLayer], machine: Machine) -> list[Record]:
    """A record for each layer that needs im2col, at each batch of `BATCHES`."""
    return [_bytes(layer, batch, machine) for layer in layers if layer.kind != POINTWISE for batch in BATCHES]


def _bytes(layer: NetworkLayer, batch: int, machine: Machine) -> Record:
    spec = as_run(layer.spec.with_batch(batch))
    views = views_of(spec)
    indirect, im2col = by_name("indirect"), by_name("im2col")
    config = indirect.configs(spec, machine)[0]
    tables = indirect.pack_tables(spec, config, views, machine)
    own = im2col.configs(spec, machine)[0]
    patches = im2col.implement(spec, own, views, machine).workspaces["patches"]
    buffer = tables["table"].nbytes
    return {
        "protocol": PROTOCOL,
        "model": layer.spec.id,
        "network": layer.network,
        "layer": layer.name,
        "class": layer.kind,
        "engine": "waterline",
        "dtype": "float32",
        "batch": batch,
        "as_run": spec.id,
        "patches_bytes": patches,
        "indirection_bytes": buffer,
        "entry_bytes": tables["table"].itemsize,
        "entries_per_pixel": tables["table"].size // (spec.p * spec.q),
        # Beside these: a row of zeros for padding, and the offsets by which our im2col finds what it copies.
        "zero_bytes": tables["zero"].nbytes,
        "im2col_table_bytes": sum(table.nbytes for table in im2col.pack_tables(spec, own, views, machine).values()),
        "ratio": patches / buffer,
        "published_ratio": memory_ratio(spec),
    }
