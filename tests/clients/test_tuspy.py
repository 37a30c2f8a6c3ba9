"""tuspy, the Python client of the tus project."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.clients.stored import assert_stored, head, metadata
from tests.clients.tus_js import UPLOAD_SECONDS
from tests.harness.native import MIB
from tests.harness.network import Network
from tests.harness.server import API_KEY, Server

pytestmark = pytest.mark.live

MakeFile = Callable[..., Path]

_PROCESS = Path(__file__).parent / "tuspy_process.py"


def upload(
    server: Server | Network,
    path: Path,
    *,
    asynchronous: bool = False,
    stop_at: int | None = None,
    storage: Path | None = None,
    **options: Any,
) -> tuple[str, int]:
    """Upload a file with options of tuspy's uploader; return its URL and how far it came."""
    told = {
        "url": f"{server.url}/files/",
        "headers": {"X-API-Key": API_KEY},
        "path": str(path),
        "asynchronous": asynchronous,
        "stop_at": stop_at,
        "storage": None if storage is None else str(storage),
        "options": options,
    }
    done = subprocess.run(
        [sys.executable, str(_PROCESS), json.dumps(told)],
        capture_output=True,
        text=True,
        timeout=UPLOAD_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    return result["url"], result["offset"]


@pytest.mark.parametrize("asynchronous", [False, True], ids=["requests", "aiohttp"])
def test_a_file_is_uploaded_in_chunks_with_its_metadata(
    server: Server, file: MakeFile, asynchronous: bool
) -> None:
    sent = file("Füße.mp4", 5 * MIB + 17)
    told = {"filename": sent.name, "filetype": "video/mp4"}
    url, offset = upload(server, sent, asynchronous=asynchronous, chunk_size=2 * MIB, metadata=told)
    assert offset == sent.stat().st_size
    assert_stored(server, url, sent)
    assert metadata(server, url) == told


def test_a_file_without_metadata_is_stored_all_the_same(server: Server, file: MakeFile) -> None:
    """tuspy sends an empty Upload-Metadata then."""
    sent = file("unnamed.bin", MIB)
    url, _ = upload(server, sent)
    assert_stored(server, url, sent, name="file")


def test_an_empty_file_is_uploaded(server: Server, file: MakeFile) -> None:
    sent = file("empty.txt", 0)
    url, _ = upload(server, sent, metadata={"filename": sent.name})
    assert_stored(server, url, sent)


def test_an_upload_is_resumed_by_another_process(
    server: Server, file: MakeFile, tmp_path: Path
) -> None:
    sent = file("resumed.bin", 5 * MIB)
    options: dict[str, Any] = {
        "storage": tmp_path / "urls.json",
        "chunk_size": MIB,
        "metadata": {"filename": sent.name},
    }
    url, offset = upload(server, sent, stop_at=2 * MIB, **options)
    assert offset == int(head(server, url).headers["Upload-Offset"]) == 2 * MIB
    assert upload(server, sent, **options) == (url, 5 * MIB)
    assert_stored(server, url, sent)


def test_every_chunk_may_bring_its_checksum(server: Server, file: MakeFile) -> None:
    sent = file("checked.bin", 5 * MIB)
    url, _ = upload(
        server,
        sent,
        upload_checksum=True,
        chunk_size=2 * MIB,
        metadata={"filename": sent.name},
    )
    assert_stored(server, url, sent)


def test_a_cut_connection_is_gone_on_from(server: Server, network: Network, file: MakeFile) -> None:
    sent = file("cut.bin", 9 * MIB)
    network.cut_after(5 * MIB)
    url, _ = upload(network, sent, retries=10, retry_delay=0, metadata={"filename": sent.name})
    assert_stored(server, url, sent)


def test_a_cut_chunk_with_a_checksum_is_sent_again(
    server: Server, network: Network, file: MakeFile
) -> None:
    """What arrived of it cannot be checked, so it does not count."""
    sent = file("cut-checked.bin", 9 * MIB)
    network.cut_after(5 * MIB)
    url, _ = upload(
        network,
        sent,
        retries=10,
        retry_delay=0,
        upload_checksum=True,
        metadata={"filename": sent.name},
    )
    assert_stored(server, url, sent)
