import platform
import subprocess
import sys

import pytest
import torch

from vae.acceleration.torch_settings import prepare


def test_no_step_looks_for_a_driver(monkeypatch):
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.grad = torch.ones(3)
    prepare()
    adam = torch.optim.Adam([parameter], fused=True)
    adam.step()
    asked = []
    monkeypatch.setattr("ctypes.CDLL", lambda name, *_, **__: asked.append(name))
    adam.step()
    assert asked == []


IN_A_NEW_PROCESS = """
import resource, torch
from vae.acceleration.torch_settings import prepare
prepare()
small = torch.full((2**20,), 2e-38)  # enough for every thread to have a part
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


def test_tiny_numbers_are_zero_and_memory_is_kept():
    told = subprocess.run([sys.executable, "-c", IN_A_NEW_PROCESS], capture_output=True, text=True, check=True).stdout
    nonzero, page_faults = map(int, told.split())
    assert nonzero == 0
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("memory is glibc's to keep")
    assert page_faults < 20 * 2048  # one of the five blocks, at each use
