"""Precision of single layers, and memory that is kept."""

import platform
import subprocess
import sys

import pytest
import torch
from torch import nn

from nasdistill.distill.compute import Compute

FAULTS = """
import resource, torch
from nasdistill.distill.compute import keep_freed_memory
if {keep}:
    assert keep_freed_memory()
def faults(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.zeros(8 * 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults(2)
print(faults(5))
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_freed_memory_is_used_again_without_page_faults() -> None:
    faults = {
        keep: int(
            subprocess.run([sys.executable, "-c", FAULTS.format(keep=keep)], capture_output=True, check=True).stdout
        )
        for keep in (False, True)
    }
    assert faults[True] < faults[False] / 10


def test_depthwise_layers_stay_in_float32_on_the_cpu() -> None:
    layers = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 1))
    compute = Compute(torch.device("cpu"), torch.bfloat16)
    compute.place(layers)
    images = torch.rand(1, 8, 9, 9)
    with compute.context():
        depthwise = layers[0](images)
    exact = nn.functional.conv2d(images, layers[0].weight, layers[0].bias, groups=8)
    assert depthwise.dtype is torch.bfloat16
    assert torch.equal(depthwise, exact.to(torch.bfloat16))
