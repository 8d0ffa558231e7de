"""Convolution by the fast Fourier transform: large filters and long one-dimensional ones, at stride 1."""

from waterline.algorithms.fft.model import Fft

FFT = Fft()
__all__ = ["FFT"]
