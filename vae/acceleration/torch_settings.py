"""What torch is told of the machine it runs on, once in a process and before its first operation."""

import os

import torch


def prepare() -> None:
    """Of no effect on results, but that numbers below 1e-38 are 0."""
    # Lightning has asked that every look for a GPU, one a step of the optimiser, begins with a search for its driver
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
    # such numbers, the weights of samples that count for nothing, make products of matrices many times slower
    torch.set_flush_denormal(True)
    # glibc returns memory to the system, and has it cleared to get it back, where more is free than twice the largest
    # block that it ever saw freed; of blocks above 32 MB it takes no notice
    torch.empty(2**23 - 2**10)
