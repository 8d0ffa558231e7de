"""What it runs on: frozen descriptions of processors, and the detection of this one."""

from waterline.machine.description import AVX512, ELEM_BYTES, ISAS, Bandwidth, Machine

__all__ = ["AVX512", "ELEM_BYTES", "ISAS", "Bandwidth", "Machine"]
