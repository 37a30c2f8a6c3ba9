"""The thin slice: a file goes up in parts and lands whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.harness.native import KIB, MIB, Native


def test_a_file_sent_in_parts_is_stored_whole(
    native: Native, content: Callable[[int], bytes]
) -> None:
    data = content(3 * MIB + 17)
    upload = native.init("videos/2024/movie.mp4", size=len(data))
    native.put_all(upload, data)
    answer = native.complete(upload)
    assert Path(answer["final_path"]).read_bytes() == data


def test_a_cut_connection_leaves_the_part_pending(
    native: Native, content: Callable[[int], bytes]
) -> None:
    upload = native.init("movie.mp4", size=3 * MIB)
    native.send_then_cut(upload, 1, content(512 * KIB))
    assert native.pending(upload) == [0, 1, 2]
