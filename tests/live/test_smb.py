"""Storing on an SMB share, over real gunicorn and a real Samba."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.harness.native import MIB, Native, Upload
from tests.harness.samba import Samba
from tests.live.wire import until

pytestmark = pytest.mark.live

Content = Callable[[int], bytes]

AT_ONCE = 6


def piece(upload: Upload, part: int, data: bytes) -> bytes:
    """Return the bytes of a part."""
    offset, length = upload.span(part)
    return data[offset : offset + length]


def put_parallel(native: Native, upload: Upload, data: bytes) -> None:
    """Send all parts, several at a time, each over a connection of its own."""

    def put(part: int) -> None:
        Native(native.server).put(upload, part, piece(upload, part, data))

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(put, range(len(upload.tokens))))


def on_share(samba: Samba, native: Native, upload: Upload) -> Path:
    """Complete an upload; return its file on the server's own disk once it is there."""
    answer = native.complete_raw(upload)
    assert answer.status_code in (200, 202), answer.text
    location = until(lambda: native.status(upload)["final_path"])
    prefix = "smb://127.0.0.1/share/"
    assert location.startswith(prefix)
    return samba.root / location.removeprefix(prefix)


def test_parts_sent_in_parallel_become_one_file_on_the_share(
    start_server: StartServer, samba: Samba, content: Content
) -> None:
    server = start_server(**samba.settings(SMB_PATH="live/parallel", WORKERS=2))
    native = Native(server)
    data = content(20 * MIB + 12345)
    upload = native.init("videos/2024/movie.mp4", size=len(data))
    put_parallel(native, upload, data)
    stored = on_share(samba, native, upload)
    assert stored == samba.root / f"live/parallel/videos/2024/{upload.id}_movie.mp4"
    assert stored.read_bytes() == data
    assert native.cancel_raw(upload).status_code == 200
    assert not stored.exists()
