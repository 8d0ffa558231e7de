"""PyTorch's own convolution: the last resort of GPUs, as `naive` is of CPUs."""
