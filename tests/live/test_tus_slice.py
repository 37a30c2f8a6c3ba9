"""One tus upload through everything: gunicorn, socket, disk, ledger, finalizing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.harness.native import MIB
from tests.harness.server import Server
from tests.harness.tus import Tus, finished_file, metadata
from tests.harness.wire import events, wait_until

pytestmark = pytest.mark.live


def test_a_file_is_created_appended_to_and_stored(
    server: Server, content: Callable[[int], bytes]
) -> None:
    tus, data = Tus(server), content(5 * MIB + 1)
    upload = tus.create(len(data), Upload_Metadata=metadata(filename="videos/movie.mp4"))
    assert tus.offset(upload) == 0
    assert tus.patch(upload, 0, data[:MIB]) == MIB
    assert tus.offset(upload) == MIB
    assert tus.patch(upload, MIB, data[MIB:]) == len(data)
    assert tus.offset(upload) == len(data)
    path = wait_until(lambda: finished_file(server, upload), "the file is stored")
    assert path.name == f"{upload.id}_movie.mp4"
    assert path.parent == server.uploads / "videos"
    assert path.read_bytes() == data
    wait_until(lambda: "finalized" in events(server, upload.id), "finalizing is recorded")
    assert events(server, upload.id) == ["created", "completed", "processing_started", "finalized"]
