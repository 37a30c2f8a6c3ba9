"""Storing on an SMB share, over real gunicorn and a real Samba."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import IncompleteRead
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.harness.native import MIB, Native, Upload
from tests.harness.reading import reader
from tests.harness.samba import Samba
from tests.harness.tus import Tus
from tests.live.wire import metric, until

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


def test_a_file_on_the_share_is_read_back_in_pieces(
    start_server: StartServer, samba: Samba, content: Content
) -> None:
    server = start_server(**samba.settings(SMB_PATH="live/reading", WORKERS=1))
    native = Native(server)
    data = content(20 * MIB + 12345)
    upload = native.init(size=len(data))
    put_parallel(native, upload, data)
    stored = on_share(samba, native, upload)
    with reader(server) as connection:
        assert connection.ask(upload.id).read() == data
        for start, end in [(0, 1), (MIB - 1, 9 * MIB + 7), (len(data) - 5, len(data))]:
            response = connection.ask(upload.id, f"Range: bytes={start}-{end - 1}")
            assert (response.status, response.read()) == (206, data[start:end])
    assert metric(server, 'longhaul_downloads_total{way="pieces"}') == 4

    def read_slowly(_: int) -> bytes:
        with reader(server, buffer_bytes=64 * 1024) as connection:
            return connection.ask(upload.id).read()

    with ThreadPoolExecutor(20) as pool:
        assert set(pool.map(read_slowly, range(20))) == {data}
    # A file that is cut short on the share must not look whole.
    with stored.open("r+b") as file:
        file.truncate(10 * MIB)
    with reader(server) as connection, pytest.raises(IncompleteRead):
        connection.ask(upload.id).read()
    assert native.cancel_raw(upload).status_code == 200


def test_a_file_that_is_appended_to_is_read_from_the_share_while_it_grows(
    start_server: StartServer, samba: Samba, content: Content
) -> None:
    """Publishing renames what readers have open."""
    server = start_server(**samba.settings(SMB_PATH="live/growing", WORKERS=2))
    tus, data = Tus(server), content(3 * MIB)
    upload = tus.create(len(data))
    with reader(server) as connection, reader(server) as another:
        responses = [connection.ask(upload.id), another.ask(upload.id)]
        tus.patch(upload, 0, data[:MIB])
        assert [response.read(MIB) for response in responses] == [data[:MIB]] * 2
        tus.patch(upload, MIB, data[MIB:])
        assert [response.read() for response in responses] == [data[MIB:]] * 2
        until(lambda: connection.is_finished(upload.id), what="it is published")
        assert connection.ask(upload.id, "Range: bytes=5-9").read() == data[5:10]
