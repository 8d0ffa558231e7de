"""Which ConvFirst networks are the most efficient for their operations, on every machine of the catalogue.

`python -m waterline.bench.convfirst_search --fill docs/convfirst.md`

Latency is operations / (peak x efficiency) (Lavin 2024), so for given operations the most efficient network is the
fastest. Two steps, because there are thousands of networks and a plan takes a tenth of a second:

1. *Attainable* efficiency of every network of the space, by formula (`price.attainable`): each block is one kernel.
2. The best few of each kind are planned, and *predicted* as `waterline.analyse` does: with the kernels that there are.

The predicted efficiency, as the geometric mean over machines and batches, is the order. Nothing runs. One core of each
machine: the caches of many would hide what moves.
"""
