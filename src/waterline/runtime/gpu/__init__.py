"""Running a plan on a GPU: tensors of PyTorch, kernels in Triton, a whole network in one CUDA graph."""
