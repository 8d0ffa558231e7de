"""Spectra of the filters, as the kernels read them."""

from __future__ import annotations

import numpy as np

from waterline.algorithms.fft.codelets import root
from waterline.algorithms.fft.geometry import Slots
from waterline.algorithms.fft.tiling import FftConfig, axes_of, is_filter, is_line, is_upright, product_of, tilings_of
from waterline.codegen.cpu.memory import aligned_zeros
from waterline.machine import Machine
from waterline.spec import ConvSpec

# Points of the spectra that are computed at a time: a few MiB of complex numbers.
CHUNK_POINTS = 1 << 18


def frequencies(spec: ConvSpec, config: FftConfig, machine: Machine) -> tuple[np.ndarray, np.ndarray]:
    """The frequencies (of columns, of rows) at each place (j, i); of a line the second is that of the sequence."""
    columns, rows = axes_of(config, machine)
    k_h = np.broadcast_to(columns.frequencies()[None, :], (rows.count, columns.n))
    k_w = np.broadcast_to(rows.frequencies()[:, None], k_h.shape)
    return (np.zeros_like(k_h), k_w + rows.n * k_h) if is_line(spec) else (k_h, k_w)


def _spectra(spec: ConvSpec, config: FftConfig, weight: np.ndarray, machine: Machine) -> np.ndarray:
    """(..., R, S) -> (places, ...): conjugate spectra of the filters with all factors of the inverse, complex128."""
    down, along = tilings_of(spec, config)
    points = (1, config.points_h * config.points_w) if is_line(spec) else (config.points_h, config.points_w)
    if is_upright(spec):
        weight = np.swapaxes(weight, -1, -2)
    padded = np.zeros((*weight.shape[:-2], *points))
    # y[i] = sum_s x[i + s + shift] w[s]: a convolution with the filter backwards.
    at_h = -(np.arange(weight.shape[-2]) + down.shift) % points[0] if not is_line(spec) else np.zeros(1, int)
    at_w = -(np.arange(weight.shape[-1]) + along.shift) % points[1]
    padded[..., at_h[:, None], at_w[None, :]] = weight
    spectrum = np.fft.fft(np.fft.fft(padded, axis=-1), axis=-2)
    k_h, k_w = frequencies(spec, config, machine)
    _, rows = axes_of(config, machine)
    scale = rows.weights()[:, None] / (points[0] * points[1])
    return np.moveaxis(spectrum[..., k_h, k_w] * scale, (-2, -1), (0, 1)).reshape(k_h.size, *weight.shape[:-2])


def pack_filters(spec: ConvSpec, config: FftConfig, weight: np.ndarray, machine: Machine) -> np.ndarray:
    """(K, C/g, R, S) -> spectra in the order in which the kernels read them, flat, float32."""
    pack = _pack_vectors if is_filter(spec) else _pack_panels
    return pack(spec, config, weight, machine).reshape(-1)


def _pack_vectors(spec: ConvSpec, config: FftConfig, weight: np.ndarray, machine: Machine) -> np.ndarray:
    """(vector of channels, place, 2, lanes): real and imaginary parts of one filter a lane."""
    lanes, slots = machine.lanes(), Slots(spec.c, machine.lanes())
    columns, rows = axes_of(config, machine)
    places = columns.n * rows.count
    packed = aligned_zeros(slots.vectors * places * 2 * lanes).reshape(slots.vectors, places, 2, lanes)
    for v in range(slots.vectors):
        here = _spectra(spec, config, weight[v * lanes : (v + 1) * lanes, 0], machine)
        for t in range(slots.tiles):  # tiles that share a vector have the same filters
            lane = t * slots.slot
            packed[v, :, 0, lane : lane + here.shape[1]] = here.real
            packed[v, :, 1, lane : lane + here.shape[1]] = here.imag
    return packed


def _pack_panels(spec: ConvSpec, config: FftConfig, weight: np.ndarray, machine: Machine) -> np.ndarray:
    """(place, group, panels): see `product`. A few channels of a panel at a time, as spectra in float64 are large."""
    lanes, product = machine.lanes(), product_of(spec, config, machine.lanes())
    columns, rows = axes_of(config, machine)
    places, depth = columns.n * rows.count, spec.group_c
    packed = aligned_zeros(places * product.weight_elems(lanes)).reshape(places, spec.groups, -1)
    width = product.tile.panel_columns(lanes)
    for group in range(spec.groups):
        for first in range(0, spec.group_k, width):
            used = min(width, spec.group_k - first)
            wide = -(-used // lanes) * lanes
            begin = group * spec.group_k + first
            at = first * 2 * depth
            panel = packed[:, group, at : at + 2 * depth * wide].reshape(places, depth, 2, wide)
            step = max(1, CHUNK_POINTS // (used * config.points_h * config.points_w))
            for c in range(0, depth, step):
                here = _spectra(spec, config, weight[begin : begin + used, c : c + step], machine).swapaxes(1, 2)
                panel[:, c : c + step, 0, :used], panel[:, c : c + step, 1, :used] = here.real, here.imag
    return packed


def pack_turns(spec: ConvSpec, config: FftConfig, machine: Machine) -> np.ndarray:
    """(j, i, 2): the factors between rows and columns of a line; nothing on a plane."""
    if not is_line(spec):
        return np.zeros(2, np.float32)
    columns, rows = axes_of(config, machine)
    n = columns.n * rows.n
    return np.array([[root(int(k) * i, n) for i in range(columns.n)] for k in rows.frequencies()], np.float32)
