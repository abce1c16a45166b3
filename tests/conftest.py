"""Lets Triton kernels run where there is no accelerator."""

import os

import torch

# Read by `triton.jit` when it decorates a kernel, so it is set before any op file is imported.
if not torch.accelerator.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
