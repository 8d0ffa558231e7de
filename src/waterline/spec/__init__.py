"""What is computed: frozen descriptions of a layer, with exact counts and an id that reads back."""

from waterline.spec.activation import ACTIVATIONS, Activation
from waterline.spec.conv import DTYPE_BYTES, ConvSpec, Epilogue
from waterline.spec.tensor import TensorView, channels_last

__all__ = ["ACTIVATIONS", "DTYPE_BYTES", "Activation", "ConvSpec", "Epilogue", "TensorView", "channels_last"]
