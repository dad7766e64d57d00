"""Process-wide torch settings: GPU checks, denormal numbers and memory."""

import platform
import subprocess
import sys

import pytest
import torch

from vae.acceleration.torch_settings import configure_torch


def test_an_optimizer_step_does_not_search_for_a_driver(monkeypatch):
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.grad = torch.ones(3)
    configure_torch()
    adam = torch.optim.Adam([parameter], fused=True)
    adam.step()
    loaded = []
    monkeypatch.setattr("ctypes.CDLL", lambda name, *_, **__: loaded.append(name))
    adam.step()
    assert loaded == []


IN_A_NEW_PROCESS = """
import resource, torch
from vae.acceleration.torch_settings import configure_torch
configure_torch()
small = torch.full((2**20,), 2e-38)  # large enough to be split among all threads
print((small / 4).count_nonzero().item())
def faults(uses):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(uses):
        torch.empty(2**21).fill_(1.0)
        blocks = [torch.empty(2**21).fill_(1.0) for _ in range(4)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults(10)
print(faults(20))
"""


def test_denormal_numbers_are_zero_and_memory_is_reused():
    output = subprocess.run([sys.executable, "-c", IN_A_NEW_PROCESS], capture_output=True, text=True, check=True).stdout
    nonzero, page_faults = map(int, output.split())
    assert nonzero == 0
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("this setting is for glibc")
    assert page_faults < 20 * 2048  # less than one of the five blocks per use
