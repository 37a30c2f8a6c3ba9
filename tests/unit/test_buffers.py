"""Memory that bytes are received into."""

from __future__ import annotations

import ctypes
import mmap
import os

from app.buffers import page_aligned

MIB = 1024 * 1024


def test_it_begins_on_a_page_whatever_its_size() -> None:
    buffers = [page_aligned(size) for size in (1, 4096, 100_000, MIB)]
    for buffer in buffers:
        assert ctypes.addressof(ctypes.c_char.from_buffer(buffer)) % mmap.PAGESIZE == 0
    assert [len(buffer) for buffer in buffers] == [1, 4096, 100_000, MIB]


def test_a_forked_process_has_a_copy() -> None:
    buffer = page_aligned(1)
    child = os.fork()
    if not child:
        buffer[0] = 1
        os._exit(buffer[0])
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    assert buffer[0] == 0
