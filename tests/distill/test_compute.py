"""Memory that is kept."""

import platform
import subprocess
import sys

import pytest

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
