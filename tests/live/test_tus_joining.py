"""Final tus uploads while they are being joined: by the kernel, and HEAD tells no offset yet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.harness.native import MIB
from tests.harness.server import Server
from tests.harness.tus import Tus, TusUpload, finished_file
from tests.harness.wire import events
from tests.live.tracing import traced, written
from tests.live.wire import lease_holder, until

pytestmark = pytest.mark.live

Content = Callable[[int], bytes]


def concatenate(tus: Tus, *partials: TusUpload) -> TusUpload:
    urls = " ".join(partial.url for partial in partials)
    response = tus.create_raw({"Upload-Concat": f"final;{urls}"})
    assert response.status_code == 201
    return TusUpload(response.headers["Location"])


def test_the_kernel_joins_and_no_byte_goes_through_the_server(
    start_server: StartServer, tmp_path: Path, content: Content
) -> None:
    server = start_server(WORKERS=1)
    tus, pieces = Tus(server), [content(3 * MIB + 1), content(1000)]
    partials = [tus.partial(piece) for piece in pieces]
    log = tmp_path / "strace.log"
    with traced(server, log):
        upload = concatenate(tus, *partials)
        path = until(lambda: finished_file(server, upload), what="the file is stored")
    assert path.read_bytes() == b"".join(pieces)
    names, counts = zip(*written(log, upload.id), strict=True)
    assert set(names) == {"copy_file_range"}
    assert sum(counts) == sum(map(len, pieces))


def test_a_final_upload_tells_no_offset_while_it_is_being_joined(
    start_server: StartServer, tmp_path: Path, content: Content
) -> None:
    server = start_server(WORKERS=1, COMPLETE_WAIT_SECS=0)
    tus, data = Tus(server), content(MIB)
    partial = tus.partial(data)
    log = tmp_path / "strace.log"
    # The kernel holds the copying thread for longer than the test looks.
    with traced(server, log, "-e", "inject=copy_file_range:delay_enter=30s"):
        upload = concatenate(tus, partial, partial)
        until(lambda: lease_holder(server, upload, "finalize"), what="it is being joined")
        until(lambda: is_staged(server, upload), what="its file has been made")
        for _ in range(2):
            head = tus.head(upload)
            assert head.status_code == 200
            assert "Upload-Offset" not in head.headers
            assert "Upload-Expires" not in head.headers
            assert head.headers["Upload-Length"] == str(2 * len(data))
            assert head.headers["Upload-Concat"] == f"final;{partial.url} {partial.url}"
            assert head.headers["Cache-Control"] == "no-store"
        assert tus.patch_raw(upload, 0, b"").status_code == 403
        assert tus.request("GET", upload).status_code in (409, 503)
        assert tus.offset(partial) == len(data)
        assert finished_file(server, upload) is None
    until(lambda: "finalized" in events(server, upload.id), what="it is finalized")
    head = tus.head(upload)
    assert head.headers["Upload-Offset"] == head.headers["Upload-Length"] == str(2 * len(data))


def is_staged(server: Server, upload: TusUpload) -> bool:
    return any(upload.id in path.name for path in server.staged_files())
