"""What a process asks of the C library."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

ASKED = """
import ctypes, sys
from headwater.app.process import map_large_blocks

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
libc.free.argtypes = (ctypes.c_void_p,)
if sys.argv[1] == "asked":
    map_large_blocks()
libc.free(libc.malloc(1 << 18))  # here glibc raises its bound
block = libc.malloc(1 << 18)
print(bool(ctypes.c_size_t.from_address(block - 8).value & 2))  # IS_MMAPPED of a chunk, in glibc's malloc.c
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another library's memory looks different")
@pytest.mark.parametrize(("given", "mapped"), [("nothing", "False"), ("asked", "True")])
def test_large_blocks_stay_apart(given: str, mapped: str) -> None:
    ran = subprocess.run([sys.executable, "-c", ASKED, given], capture_output=True, text=True, check=True, timeout=30)
    assert ran.stdout.strip() == mapped
