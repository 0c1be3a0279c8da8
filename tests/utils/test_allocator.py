"""Freed memory stays in the process, unless the user wants it otherwise."""

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from unified_sess.utils.allocator import keep_freed_memory
kept = keep_freed_memory()
def faults(size):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(size)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults(2**26)
print(kept, faults(2**25))
"""


def new_pages(**variables):
    """Whether memory is kept, and the pages that the kernel hands out for 128 MB when twice as much was just freed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "THP_"))}
    ended = subprocess.run(
        [sys.executable, "-c", FAULTS], env=environment | variables, check=True, capture_output=True, text=True
    )
    kept, faults = ended.stdout.split()
    return kept == "True", int(faults)


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_memory_is_used_again_without_the_kernel_unless_the_user_wants_it_otherwise():
    kept, few = new_pages()
    otherwise, many = new_pages(MALLOC_TRIM_THRESHOLD_="131072")
    assert kept and not otherwise
    assert 3 * few < many


def test_a_system_without_glibc_trains_on(monkeypatch):
    from unified_sess.utils import allocator

    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())
    for name in [name for name in os.environ if name.startswith("MALLOC_")]:
        monkeypatch.delenv(name)
    assert not allocator.keep_freed_memory()
