"""Measures kernels on a chip and projects a cluster of them; data flows one way through it."""
