"""tus creations that bring bytes, which stall, are stopped or are overtaken: what has arrived is
kept, and the answer tells it (tus 1.0.0, "Creation With Upload")."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import StartServer
from tests.harness.native import KIB, MIB
from tests.harness.server import Server
from tests.harness.tus import CONTENT_TYPE, Tus, TusUpload, checksum, finished_file
from tests.harness.wire import rows
from tests.live.wire import Answer, Connection, chunked, lease_holder, until

pytestmark = pytest.mark.live

Content = Callable[[int], bytes]

SENT = 300 * KIB


def uploads(server: Server) -> set[str]:
    return {row["id"] for row in rows(server, "SELECT id FROM uploads")}


@contextlib.contextmanager
def creating(
    tus: Tus, data: bytes, *, chunks: bool = False, **headers: object
) -> Iterator[tuple[Connection, TusUpload]]:
    """Create an upload of ``data``, send its first SENT bytes with that, and wait until they are
    written; its URL is the ledger's secret still."""
    before = uploads(tus.server)
    framing = "Transfer-Encoding: chunked" if chunks else f"Content-Length: {len(data)}"
    told = {"Upload-Length": len(data), "Content-Type": CONTENT_TYPE, **tus.usual}
    told |= {name.replace("_", "-"): value for name, value in headers.items()}
    fields = "".join(f"{name}: {value}\r\n" for name, value in told.items())
    with Connection(tus.server) as connection:
        connection.send(f"POST /files HTTP/1.1\r\nHost: x\r\n{fields}{framing}\r\n\r\n".encode())
        connection.send(chunked(data[:SENT], end=False) if chunks else data[:SENT])
        (upload_id,) = until(lambda: uploads(tus.server) - before, what="the upload is there")
        upload = TusUpload(f"{tus.server.url}/files/{upload_id}")
        until(lambda: is_written(tus.server, upload, data[:SENT]), what="its bytes are written")
        yield connection, upload


def is_written(server: Server, upload: TusUpload, data: bytes) -> bool:
    for path in server.staged_files():
        if upload.id in path.name:
            return path.read_bytes()[: len(data)] == data  # type: ignore[attr-defined, no-any-return]
    return False


def assert_created(answer: Answer, upload: TusUpload, offset: int) -> None:
    """Assert that a client learns where to go on."""
    assert answer.status == 201
    assert answer.headers["upload-offset"] == str(offset)
    assert answer.headers["location"].endswith(upload.path)
    assert "upload-expires" in answer.headers
    assert answer.headers["tus-resumable"] == "1.0.0"


def go_on(tus: Tus, upload: TusUpload, data: bytes, offset: int) -> None:
    assert tus.offset(upload) == offset
    assert tus.patch(upload, offset, data[offset:]) == len(data)
    path = until(lambda: finished_file(tus.server, upload), what="the file is stored")
    assert path.read_bytes() == data


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that gives up a body after a second without a byte."""
    server = Server(tmp_path_factory.mktemp("impatient"), BODY_IDLE_TIMEOUT_SECS=1)
    with contextlib.closing(server):
        yield server.start()


@pytest.mark.parametrize("chunks", [False, True])
def test_a_creation_that_stalls_is_answered_with_what_has_arrived(
    impatient: Server, content: Content, chunks: bool
) -> None:
    tus, data = Tus(impatient), content(MIB)
    with creating(tus, data, chunks=chunks) as (connection, upload):
        assert_created(connection.read(), upload, SENT)
        connection.wait_for_end()  # the rest of the body is not waited for
    go_on(tus, upload, data, SENT)


def test_nothing_counts_of_a_creation_that_stalls_before_it_is_verified(
    impatient: Server, content: Content
) -> None:
    tus, data = Tus(impatient), content(MIB)
    with creating(tus, data, Upload_Checksum=checksum(data)) as (connection, upload):
        assert_created(connection.read(), upload, 0)
    go_on(tus, upload, data, 0)


def test_a_server_that_stops_answers_a_creation_with_what_has_arrived(
    start_server: StartServer, content: Content
) -> None:
    server = start_server(GRACEFUL_TIMEOUT_SECS=60)
    tus, data = Tus(server), content(MIB)
    with creating(tus, data) as (connection, upload):
        begun_at = time.monotonic()
        server.terminate()
        assert_created(connection.read(), upload, SENT)
        assert time.monotonic() - begun_at < 10  # of the 60 that parts would have
    assert server.wait() == 0
    server.start()
    go_on(tus, upload, data, SENT)


def test_a_creation_that_is_overtaken_is_answered_with_what_has_arrived(
    server: Server, tus: Tus, content: Content
) -> None:
    data = content(MIB)
    with creating(tus, data) as (stale, upload):
        assert tus.patch_raw(upload, 0, data).status_code == 409  # what has arrived counts
        assert_created(stale.read(), upload, SENT)
    assert lease_holder(server, upload, "append") is None
    go_on(tus, upload, data, SENT)


def test_a_creation_whose_upload_is_deleted_meanwhile_is_410(
    server: Server, tus: Tus, content: Content
) -> None:
    with creating(tus, content(MIB)) as (connection, upload):
        assert tus.delete(upload).status_code == 204
        answer = connection.read()
        assert answer.status == 410
        assert "location" not in answer.headers
    assert not [path for path in server.staged_files() if upload.id in path.name]
