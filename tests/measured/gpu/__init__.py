"""Measurements on a real CUDA GPU: `python -m tests.measured.gpu.run`."""
