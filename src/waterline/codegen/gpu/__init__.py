"""Building blocks of Triton kernels, their launch, and their compilation ahead of time."""
