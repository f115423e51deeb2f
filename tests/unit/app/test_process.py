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


AT_THE_END = """
import ctypes, sys
from headwater.app.process import map_large_blocks

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
libc.free.argtypes = (ctypes.c_void_p,)
libc.sbrk.restype, libc.sbrk.argtypes = ctypes.c_void_p, (ctypes.c_ssize_t,)
if sys.argv[1] == "asked":
    map_large_blocks()
blocks = [libc.malloc(20_000) for _ in range(1_000)]
end = libc.sbrk(0)
for block in reversed(blocks):
    libc.free(block)
print(libc.sbrk(0) < end)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another library's memory looks different")
@pytest.mark.parametrize(("given", "moved"), [("nothing", "True"), ("asked", "False")])
def test_the_end_of_the_heap_stands_still(given: str, moved: str) -> None:
    ran = subprocess.run([sys.executable, "-c", AT_THE_END, given], capture_output=True, text=True, check=True, timeout=30)
    assert ran.stdout.strip() == moved


HOLES = """
import asyncio, ctypes, sys
from pathlib import Path
from headwater.app.process import give_memory_back_for_ever

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
libc.free.argtypes = (ctypes.c_void_p,)

def resident_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20

async def main():
    blocks = [libc.malloc(20_000 if n % 2 else 100) for n in range(8_000)]
    for block in blocks[1::2]:
        ctypes.memset(block, 1, 20_000)
    for block in blocks[1::2]:
        libc.free(block)
    before = resident_mib()
    giving = asyncio.create_task(give_memory_back_for_ever(lambda: int(sys.argv[1]), every_s=0.01))
    await asyncio.sleep(0.5)
    giving.cancel()
    print(before - resident_mib())

asyncio.run(main())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another library's memory looks different")
@pytest.mark.parametrize(("handshakes", "is_given"), [(99, False), (100, True)])
def test_holes_are_given_back_where_there_were_handshakes(handshakes: int, is_given: bool) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", HOLES, str(handshakes)], capture_output=True, text=True, check=True, timeout=30
    )
    assert (int(ran.stdout) > 40) is is_given  # of 76 MiB
