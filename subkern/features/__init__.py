"""Stored per-example projected gradients, for kernels of many examples."""
