"""Measures kernels on a chip and projects a cluster of them; data flows one way through it."""

__version__ = "0.1.0"
