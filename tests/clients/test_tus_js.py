"""tus-js-client in Node and in Chromium: what its options make it do works, and breaks well."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.clients.stored import assert_stored, head, is_gone, metadata
from tests.clients.tus_js import TusJs
from tests.conftest import StartServer
from tests.harness.native import KIB, MIB
from tests.harness.network import Network
from tests.harness.server import Server
from tests.harness.tus import TusUpload
from tests.harness.wire import change, wait_until

pytestmark = pytest.mark.live

MakeFile = Callable[..., Path]

#: More than the heads that go before the bytes of an upload take together.
HEADS_BYTES = 8 * KIB

#: Delays as clients have them, shorter.
RETRY_DELAYS = [0, 100, 200, 500, 500, 1000, 1000, 1000]


def test_a_file_is_sent_by_one_patch(tus_js: TusJs, server: Server, file: MakeFile) -> None:
    sent = file("Füße & Hände.mp4", 9 * MIB + 1)
    told = {"filename": sent.name, "filetype": "video/mp4", "empty": ""}
    url = tus_js.upload(f"{server.url}/files/", sent, metadata=told)
    assert tus_js.requests == ["POST", "PATCH 0"]
    assert_stored(server, url, sent)
    assert metadata(server, url) == told


def test_an_empty_file_needs_no_patch(tus_js: TusJs, server: Server, file: MakeFile) -> None:
    sent = file("empty.txt", 0)
    url = tus_js.upload(f"{server.url}/files/", sent, metadata={"filename": sent.name})
    assert tus_js.requests == ["POST"]
    assert_stored(server, url, sent)


def test_chunks_follow_each_other(tus_js: TusJs, server: Server, file: MakeFile) -> None:
    sent = file("chunks.bin", 5 * MIB + 17)
    url = tus_js.upload(
        f"{server.url}/files/", sent, chunkSize=2 * MIB, metadata={"filename": sent.name}
    )
    assert tus_js.requests == ["POST", "PATCH 0", f"PATCH {2 * MIB}", f"PATCH {4 * MIB}"]
    assert_stored(server, url, sent)


def test_parallel_uploads_become_one_file(tus_js: TusJs, server: Server, file: MakeFile) -> None:
    sent = file("parallel.bin", 7 * MIB + 1)
    url = tus_js.upload(
        f"{server.url}/files/", sent, parallelUploads=3, metadata={"filename": sent.name}
    )
    assert sorted(tus_js.requests) == ["PATCH 0"] * 3 + ["POST"] * 4
    assert tus_js.requests[-1] == "POST"
    assert_stored(server, url, sent)
    assert metadata(server, url) == {"filename": sent.name}
    assert head(server, url).headers["Upload-Concat"].startswith("final;")


@pytest.mark.parametrize(
    ("tus_js", "size"),
    [
        ("node", 3 * MIB + 5),
        ("chromium", 3 * MIB + 5),
        ("chromium", 2 * MIB),  # in Node tus-js-client waits for ever then
    ],
    indirect=["tus_js"],
)
def test_a_stream_tells_its_length_at_its_end(
    tus_js: TusJs, server: Server, file: MakeFile, size: int
) -> None:
    sent = file("stream.bin", size)
    url = tus_js.upload(
        f"{server.url}/files/",
        sent,
        kind="stream",
        uploadLengthDeferred=True,
        chunkSize=MIB,
        metadata={"filename": sent.name},
    )
    assert _headers(tus_js, 0) == {"Upload-Defer-Length": "1"}
    assert _headers(tus_js, -1)["Upload-Length"] == str(size)
    assert_stored(server, url, sent)


def test_data_may_come_with_the_creation(tus_js: TusJs, server: Server, file: MakeFile) -> None:
    sent = file("at-once.bin", 3 * MIB)
    url = tus_js.upload(
        f"{server.url}/files/",
        sent,
        uploadDataDuringCreation=True,
        metadata={"filename": sent.name},
    )
    assert tus_js.requests == ["POST"]
    assert_stored(server, url, sent)


def test_the_first_chunk_may_come_with_the_creation(
    tus_js: TusJs, server: Server, file: MakeFile
) -> None:
    sent = file("first.bin", 3 * MIB)
    url = tus_js.upload(
        f"{server.url}/files/",
        sent,
        uploadDataDuringCreation=True,
        chunkSize=2 * MIB,
        metadata={"filename": sent.name},
    )
    assert tus_js.requests == ["POST", f"PATCH {2 * MIB}"]
    assert_stored(server, url, sent)


def test_a_post_may_stand_for_a_patch(tus_js: TusJs, server: Server, file: MakeFile) -> None:
    sent = file("override.bin", 3 * MIB)
    url = tus_js.upload(
        f"{server.url}/files/", sent, overridePatchMethod=True, metadata={"filename": sent.name}
    )
    assert tus_js.requests == ["POST", "POST 0"]
    assert _headers(tus_js, 1)["X-HTTP-Method-Override"] == "PATCH"
    assert_stored(server, url, sent)


def test_an_aborted_upload_is_found_again(
    tus_js: TusJs, server: Server, network: Network, file: MakeFile
) -> None:
    sent = file("found.bin", 9 * MIB)
    options = {"metadata": {"filename": sent.name}, "retryDelays": RETRY_DELAYS}
    _start_and_abort_midway(tus_js, network, sent, **options)
    tus_js.start_anew()
    url = tus_js.upload(f"{network.url}/files/", sent, resume=True, **options)
    assert _goes_on(tus_js.requests[2:])
    assert_stored(server, url, sent)


def test_an_upload_goes_on_at_its_url(
    tus_js: TusJs, server: Server, network: Network, file: MakeFile
) -> None:
    sent = file("url.bin", 9 * MIB)
    options = {"metadata": {"filename": sent.name}, "retryDelays": RETRY_DELAYS}
    url = _start_and_abort_midway(tus_js, network, sent, **options)
    tus_js.start_anew()
    assert tus_js.upload(f"{network.url}/files/", sent, uploadUrl=url, **options) == url
    assert _goes_on(tus_js.requests[2:])
    assert_stored(server, url, sent)


def test_aborted_parallel_uploads_are_found_again(
    tus_js: TusJs, server: Server, network: Network, file: MakeFile
) -> None:
    sent = file("parts.bin", 9 * MIB)
    options = {
        "parallelUploads": 2,
        "metadata": {"filename": sent.name},
        "retryDelays": RETRY_DELAYS,
    }
    _start_and_abort_midway(tus_js, network, sent, **options)
    before = len(tus_js.requests)
    tus_js.start_anew()
    url = tus_js.upload(f"{network.url}/files/", sent, resume=True, **options)
    again = tus_js.requests[before:]
    assert again.count("HEAD") >= 2
    assert again.count("POST") == 1, "a partial upload was made again"
    assert_stored(server, url, sent)


def test_an_upload_is_terminated_midway(
    tus_js: TusJs, server: Server, network: Network, file: MakeFile
) -> None:
    sent = file("terminated.bin", 9 * MIB)
    url = _start_and_abort_midway(tus_js, network, sent, terminate=True)
    assert tus_js.events[-2] == {"type": "answer", "method": "DELETE", "status": 204}
    assert is_gone(server, url)


def test_an_upload_that_has_expired_is_started_anew(
    tus_js: TusJs, server: Server, network: Network, file: MakeFile
) -> None:
    sent = file("expired.bin", 9 * MIB)
    options = {"metadata": {"filename": sent.name}, "retryDelays": RETRY_DELAYS}
    expired = _start_and_abort_midway(tus_js, network, sent, **options)
    wait_until(
        lambda: head(server, expired).headers["Upload-Offset"] != "0",
        "what arrived is recorded, which moves the expiry on",
    )
    change(server, "UPDATE uploads SET expires_at_ms = 1 WHERE id = ?", TusUpload(expired).id)
    tus_js.start_anew()
    url = tus_js.upload(f"{network.url}/files/", sent, resume=True, **options)
    assert tus_js.requests[2:] == ["HEAD", "POST", "PATCH 0"]
    assert url != expired
    assert_stored(server, url, sent)


def test_a_complete_upload_is_terminated_with_its_file(
    tus_js: TusJs, server: Server, file: MakeFile
) -> None:
    sent = file("complete.bin", MIB)
    url = tus_js.upload(f"{server.url}/files/", sent, metadata={"filename": sent.name})
    assert_stored(server, url, sent)
    tus_js.abort(terminate=True)
    assert is_gone(server, url)


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_a_cut_connection_costs_none_of_the_bytes_that_arrived(
    tus_js: TusJs, server: Server, network: Network, file: MakeFile, how: str
) -> None:
    sent = file("cut.bin", 9 * MIB)
    network.cut_after(5 * MIB, how)
    url = tus_js.upload(
        f"{network.url}/files/",
        sent,
        retryDelays=RETRY_DELAYS,
        metadata={"filename": sent.name},
    )
    assert _goes_on(tus_js.requests[2:])
    assert_stored(server, url, sent)


def test_an_upload_outlives_a_network_that_is_gone_for_a_while(
    tus_js: TusJs, server: Server, network: Network, file: MakeFile
) -> None:
    sent = file("gone.bin", 9 * MIB)
    network.cut_after(5 * MIB, refusing=True)
    tus_js.start(
        f"{network.url}/files/",
        sent,
        retryDelays=RETRY_DELAYS,
        metadata={"filename": sent.name},
    )
    while tus_js.requests.count("HEAD") < 2:  # the first has met no server
        tus_js.wait_for("request")
    network.release()
    url = tus_js.succeed()
    assert_stored(server, url, sent)


def test_a_client_resumes_whose_old_connection_never_ended(
    tus_js: TusJs, server: Server, network: Network, file: MakeFile
) -> None:
    """A laptop that fell asleep: the server still waits for the old request's bytes."""
    sent = file("asleep.bin", 9 * MIB)
    options = {"metadata": {"filename": sent.name}, "retryDelays": RETRY_DELAYS}
    _start_and_abort_midway(tus_js, network, sent, silent=True, **options)
    tus_js.start_anew()
    url = tus_js.upload(f"{network.url}/files/", sent, resume=True, **options)
    assert_stored(server, url, sent)


@pytest.mark.parametrize("tus_js", ["node"], indirect=True)
@pytest.mark.parametrize("crash", [False, True], ids=["stopped", "killed"])
def test_an_upload_outlives_its_server(
    tus_js: TusJs, start_server: StartServer, file: MakeFile, crash: bool
) -> None:
    server, sent = start_server(), file("outlives.bin", 9 * MIB)
    with Network(server.port) as network:
        network.hold_after(5 * MIB)
        tus_js.start(
            f"{network.url}/files/",
            sent,
            retryDelays=[0, *([200] * 100)],
            metadata={"filename": sent.name},
        )
        network.wait()
        if crash:
            server.kill()
        else:
            server.stop()
        server.start()
        url = tus_js.succeed()
        assert tus_js.requests.count("POST") == 1
        assert_stored(server, url, sent)


def _start_and_abort_midway(
    tus_js: TusJs,
    network: Network,
    sent: Path,
    *,
    terminate: bool = False,
    silent: bool = False,
    **options: Any,
) -> str:
    """Start an upload, abort it when half of it has passed the network, and return its URL."""
    network.hold_after(5 * MIB, silent=silent)
    tus_js.start(f"{network.url}/files/", sent, **options)
    network.wait()
    tus_js.abort(terminate=terminate)
    url: str = tus_js.events[-1]["url"]
    return url


def _goes_on(requests: list[str]) -> bool:
    """Tell whether a client asks, and in the end sends what did not pass the network.

    What has arrived counts once the server has noticed that its request has ended; an
    offset that is out of date by then is refused, and the client asks again.
    """
    asked = [request for request in requests if request == "HEAD"]
    offset = int(requests[-1].removeprefix("PATCH "))
    return (
        requests[0] == "HEAD"
        and len(requests) == 2 * len(asked)
        and 5 * MIB - HEADS_BYTES <= offset <= 5 * MIB
    )


def _headers(tus_js: TusJs, number: int) -> dict[str, str]:
    """Return the tus headers of a request."""
    sent = [event["headers"] for event in tus_js.events if event["type"] == "request"]
    headers: dict[str, str] = sent[number]
    return headers
