"""Process-wide torch settings."""

import os

import torch


def configure_torch() -> None:
    """Make torch faster. Call it once per process, before the first torch operation.

    The only effect on results is that numbers below 1e-38 become 0.
    """
    # Lightning turns this on; then every check for a GPU, one per optimizer step, first searches for the driver
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
    # such numbers, for example the weights of negligible samples, make matrix products many times slower
    torch.set_flush_denormal(True)
    # glibc returns free memory to the system above a threshold: twice the largest block freed so far, not counting
    # blocks above 32 MB. Getting it back is slow, because the system clears it. Freeing one large block now sets a
    # high threshold.
    torch.empty(2**23 - 2**10)
