"""A large file on the upload page, and all that comes between its first byte and its last."""

from __future__ import annotations

import socket

import pytest

from tests.browser.conftest import CHUNK_MB, LARGE_BYTES, LargeFile, sha256, stored_as
from tests.conftest import StartServer
from tests.harness.gate import Gate
from tests.harness.native import MIB
from tests.harness.server import Server
from tests.harness.upload_page import UploadPage, session
from tests.live.wire import until

CHUNKS = LARGE_BYTES // (CHUNK_MB * MIB)
ALL = list(range(1, CHUNKS + 1))

#: Where tests stop the file.
MIDDLE_BYTES = 80 * MIB


def assert_stored(server: Server, file: LargeFile) -> None:
    """Assert that exactly one such file is there, byte for byte; remove it."""
    (path,) = stored_as(server, file.name)
    assert sha256(path) == file.sha256
    path.unlink()


def is_listening(port: int) -> bool:
    """Tell whether anybody accepts connections."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def begin(upload_page: UploadPage, gate: Gate, file: LargeFile, user: str) -> None:
    """Send a file until its middle, where the network stands still."""
    upload_page.open(gate.url, session(user))
    gate.allow(MIDDLE_BYTES)
    upload_page.choose(file.path)
    gate.wait_until_held()
    upload_page.traffic.settle()
    assert 0 < len(upload_page.traffic.stored) < CHUNKS


def test_a_large_file_arrives_whole_and_comes_back(
    upload_page: UploadPage, uploads: Server, large_file: LargeFile
) -> None:
    upload_page.open(uploads.url, session("whole"))
    upload_page.choose(large_file.path)
    upload_page.wait_for_done(large_file.name)
    assert sorted(upload_page.traffic.sent) == ALL
    with upload_page.page.expect_download() as download:
        upload_page.press("Download", large_file.name)
    assert download.value.suggested_filename == large_file.name
    assert sha256(download.value.path()) == large_file.sha256
    assert_stored(uploads, large_file)


def test_a_paused_file_sends_nothing_and_goes_on_where_it_was(
    upload_page: UploadPage, uploads: Server, gate: Gate, large_file: LargeFile
) -> None:
    begin(upload_page, gate, large_file, "pausing")
    upload_page.press("Pause", large_file.name)
    upload_page.wait_for_state(large_file.name, "Paused")
    gate.allow(None)
    sent = len(upload_page.traffic.sent)
    # A small file goes all the way meanwhile: the network is there, and the large one waits.
    small = large_file.path.with_name("note.txt")
    small.write_text("small")
    upload_page.choose(small)
    upload_page.wait_for_done(small.name)
    assert len(upload_page.traffic.sent) == sent + 1
    stored_before = set(upload_page.traffic.stored)
    upload_page.traffic.clear()
    upload_page.press("Resume", large_file.name)
    upload_page.wait_for_done(large_file.name)
    assert not stored_before - {1} & set(upload_page.traffic.sent)
    assert_stored(uploads, large_file)


def test_after_a_reload_only_missing_chunks_are_sent(
    upload_page: UploadPage, uploads: Server, gate: Gate, large_file: LargeFile
) -> None:
    begin(upload_page, gate, large_file, "reloading")
    upload_page.reload()
    # The old page goes on until the new one is there: what it still does is not the new one's.
    upload_page.traffic.settle()
    stored_before = set(upload_page.traffic.stored)
    upload_page.traffic.clear()
    gate.cut()  # what the old page had on its way is gone, and the server knows
    gate.allow(None)
    reminder = upload_page.page.locator(".reminder")
    reminder.get_by_text("One file was not finished").wait_for()
    assert large_file.name in reminder.inner_text()
    upload_page.choose(large_file.path)
    upload_page.wait_for_done(large_file.name)
    assert reminder.is_hidden()
    traffic = upload_page.traffic
    assert set(traffic.tested) == set(ALL)
    assert stored_before <= set(traffic.present)
    # Each chunk was there or has been sent, once, and none that was there before.
    # (The page may ask for one again that it has sent: whether the file is finished.)
    assert set(traffic.present) | set(traffic.stored) == set(ALL)
    assert len(traffic.sent) == len(set(traffic.sent))
    assert not stored_before & set(traffic.sent)
    assert_stored(uploads, large_file)
    upload_page.reload()
    assert reminder.is_hidden()


def test_an_upload_outlives_a_network_that_is_gone_for_a_while(
    upload_page: UploadPage, uploads: Server, gate: Gate, large_file: LargeFile
) -> None:
    begin(upload_page, gate, large_file, "offline")
    upload_page.page.context.set_offline(True)
    upload_page.expect_notice("You are offline")
    upload_page.wait_for_state(large_file.name, "Interrupted")
    gate.cut()
    gate.allow(None)
    upload_page.page.context.set_offline(False)
    upload_page.wait_for_done(large_file.name)
    assert upload_page.notice.is_hidden()
    assert_stored(uploads, large_file)


@pytest.mark.parametrize("end", ["killed", "stopped"])
def test_an_upload_outlives_a_server_that_is_started_again(
    upload_page: UploadPage, start_server: StartServer, large_file: LargeFile, end: str
) -> None:
    server = start_server(CHUNK_SIZE_MB=CHUNK_MB, GRACEFUL_TIMEOUT_SECS=10)
    gate = Gate(server.port)
    begin(upload_page, gate, large_file, "restarting")
    if end == "killed":
        server.kill()
    else:
        server.terminate()  # it waits for the chunks that are on their way, and takes no more
        until(lambda: not is_listening(server.port))
        gate.allow(None)
        server.wait()
    upload_page.expect_notice("The server cannot be reached")
    upload_page.wait_for_state(large_file.name, "Interrupted")
    gate.allow(None)
    server.start()
    upload_page.wait_for_done(large_file.name)
    assert upload_page.notice.is_hidden()
    assert_stored(server, large_file)
    gate.close()
