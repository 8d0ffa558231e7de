"""What it runs on: frozen descriptions of processors, and the detection of this one."""

from waterline.machine.catalogue import CATALOGUE
from waterline.machine.description import AVX512, ELEM_BYTES, ISAS, Bandwidth, Machine
from waterline.machine.detect import available_memory_bytes, detect
from waterline.machine.rates import Rates

__all__ = [
    "AVX512",
    "CATALOGUE",
    "ELEM_BYTES",
    "ISAS",
    "Bandwidth",
    "Machine",
    "Rates",
    "available_memory_bytes",
    "detect",
]
