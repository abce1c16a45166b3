"""What is computed: one file per operation, each with Triton kernels and everything to judge them.

Nothing here imports `harness`, hydra or mlflow, and importing this package does not import torch.
"""
