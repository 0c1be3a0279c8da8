"""Hand-written passes and GPU kernels; each has a plain path beside it as reference."""
