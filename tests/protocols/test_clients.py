"""Clients as users of the servers we replace have written them, against the shared server.

Each class sends exactly the requests its documentation shows and reads exactly
the fields it reads, no more: what it does not look at must not be needed.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.harness.native import KIB, MIB
from tests.harness.server import API_KEY, Server

Content = Callable[[int], bytes]

KEY = {"X-API-Key": API_KEY}

#: The newer client's pause between two looks is 2 s; what it sees does not depend on it.
POLL_SECONDS = 0.05


class ScriptedClient:
    """Ours, on the model of the documents' Python example: sequential, without retries.

    It knows the part size beforehand (``part_bytes``, 50 MiB in the example),
    sends parts in the order of init's list with only the token, and reads
    ``uploaded_parts`` and ``total_parts`` of each receipt.
    """

    def __init__(self, server: Server, part_bytes: int) -> None:
        self.url = server.url
        self.part_bytes = part_bytes
        self.told: list[str] = []

    def send_parts(self, path: Path, folder: str | None) -> str:
        """Announce a file and send its parts; return the id."""
        name = f"{folder}/{path.name}" if folder else path.name
        announced = requests.post(
            f"{self.url}/upload/init",
            headers=KEY,
            json={"filename": name, "total_size": os.path.getsize(path)},
            timeout=30,
        ).json()
        with path.open("rb") as file:
            for part in announced["parts"]:
                piece = file.read(self.part_bytes)
                if not piece:
                    break
                receipt = requests.put(
                    f"{self.url}/upload/{announced['file_id']}/part/{part['part']}",
                    headers={"Authorization": f"Bearer {part['token']}"},
                    data=piece,
                    timeout=30,
                ).json()
                self.told.append(f"{receipt['uploaded_parts']}/{receipt['total_parts']}")
        return str(announced["file_id"])

    def status(self, upload_id: str) -> dict[str, Any]:
        """Ask for the status without any parameter."""
        response = requests.get(f"{self.url}/upload/{upload_id}/status", headers=KEY, timeout=30)
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
        return answer


class NewestScript(ScriptedClient):
    """Completes, whatever 2xx that says, and polls ``phase`` for the outcome."""

    def upload(self, path: Path, folder: str | None = None) -> str:
        """Send a file; return its final path."""
        upload_id = self.send_parts(path, folder)
        url = f"{self.url}/upload/{upload_id}/complete"
        requests.post(url, headers=KEY, timeout=30).raise_for_status()
        give_up_at = time.monotonic() + 30
        while time.monotonic() < give_up_at:
            status = self.status(upload_id)
            if status.get("phase") == "complete":
                return str(status["final_path"])
            if status.get("phase") == "failed":
                raise RuntimeError(status.get("finalization_error"))
            self.told.append(f"{status.get('finalizing_progress_percent', 0)}%")
            time.sleep(POLL_SECONDS)
        raise AssertionError("the upload never ended")


class OldScript(ScriptedClient):
    """Version 0.1.2: complete is synchronous and its answer has the path."""

    def upload(self, path: Path, folder: str | None = None) -> str:
        """Send a file; return its final path."""
        upload_id = self.send_parts(path, folder)
        url = f"{self.url}/upload/{upload_id}/complete"
        return str(requests.post(url, headers=KEY, timeout=30).json()["final_path"])

    def resume(self, upload_id: str, path: Path, tokens: dict[int, str]) -> float:
        """Send the parts that the status calls pending; return ``progress_percent`` after it."""
        before = self.status(upload_id)
        with path.open("rb") as file:
            for part in before["parts"]:
                if part["status"] == "pending":
                    file.seek(part["part"] * before["chunk_size"])
                    requests.put(
                        f"{self.url}/upload/{upload_id}/part/{part['part']}",
                        headers={"Authorization": f"Bearer {tokens[part['part']]}"},
                        data=file.read(before["chunk_size"]),
                        timeout=30,
                    ).raise_for_status()
        return float(self.status(upload_id)["progress_percent"])


@pytest.fixture
def large_file(tmp_path: Path, content: Content) -> Path:
    """A file of three and a half parts."""
    path = tmp_path / "large-file.zip"
    path.write_bytes(content(3 * MIB + 512 * KIB))
    return path


@pytest.mark.parametrize("kind", [NewestScript, OldScript])
@pytest.mark.parametrize("folder", [None, "videos/2024/december"])
def test_the_documents_script_uploads_a_file(
    server: Server, large_file: Path, kind: type[NewestScript | OldScript], folder: str | None
) -> None:
    client = kind(server, part_bytes=MIB)
    final_path = client.upload(large_file, folder)
    assert server.file(final_path).read_bytes() == large_file.read_bytes()
    directory, _, name = server.store.key(final_path).rpartition("/")
    assert directory == (folder or "files")
    assert name.endswith("_large-file.zip")
    assert client.told[:4] == ["1/4", "2/4", "3/4", "4/4"]


@pytest.mark.parametrize("kind", [NewestScript, OldScript])
def test_the_documents_script_uploads_an_empty_file(
    server: Server, tmp_path: Path, kind: type[NewestScript | OldScript]
) -> None:
    path = tmp_path / "empty.txt"
    path.touch()
    assert server.file(kind(server, part_bytes=MIB).upload(path)).read_bytes() == b""


def test_the_script_works_with_the_part_size_it_hard_codes(
    start_server: Callable[..., Server], tmp_path: Path, content: Content
) -> None:
    path = tmp_path / "large-file.zip"
    path.write_bytes(content(50 * MIB + 1))
    server = start_server(CHUNK_SIZE_MB=50)
    client = NewestScript(server, part_bytes=50 * 1024 * 1024)
    assert server.file(client.upload(path)).read_bytes() == path.read_bytes()
    assert client.told[:2] == ["1/2", "2/2"]


def test_the_newest_script_follows_202_until_the_file_is_there(
    jobless: Server, large_file: Path
) -> None:
    client = NewestScript(jobless, part_bytes=MIB)
    with ThreadPoolExecutor(1) as background:
        outcome = background.submit(client.upload, large_file)
        while "0%" not in client.told:
            assert not outcome.done()
            time.sleep(POLL_SECONDS)  # between two looks; the client itself gives up in time
        jobless.flask("uploads", "finalize", _newest_upload(jobless))
        assert jobless.file(outcome.result()).read_bytes() == large_file.read_bytes()


def _newest_upload(server: Server) -> str:
    return server.flask("uploads", "list", "--limit", "1").stdout.split()[0]


def test_an_old_client_resumes_with_the_tokens_of_its_init(
    server: Server, large_file: Path
) -> None:
    announced = requests.post(
        f"{server.url}/upload/init",
        headers=KEY,
        json={"filename": "a.zip", "total_size": large_file.stat().st_size},
        timeout=30,
    ).json()
    client = OldScript(server, part_bytes=MIB)
    tokens = {part["part"]: part["token"] for part in announced["parts"]}
    data = large_file.read_bytes()
    requests.put(
        f"{server.url}/upload/{announced['file_id']}/part/2",
        headers={"Authorization": f"Bearer {tokens[2]}"},
        data=data[2 * MIB : 3 * MIB],
        timeout=30,
    ).raise_for_status()
    assert client.status(announced["file_id"])["progress_percent"] == 25
    assert client.resume(announced["file_id"], large_file, tokens) == 100
    url = f"{server.url}/upload/{announced['file_id']}/complete"
    answer = requests.post(url, headers=KEY, timeout=30).json()
    assert server.file(answer["final_path"]).read_bytes() == data


# The TypeScript SDK, by what it sends and reads (wire contract, "What real clients do")


class Sdk:
    """What versions 1.x to 2.1 do: parts in parallel, an id and tokens, retries, an abort."""

    def __init__(self, server: Server) -> None:
        self.base_url = f"{server.url}/"  # users give it with a slash, it is glued on raw

    def init(self, name: str, size: int) -> dict[str, Any]:
        """Announce a file."""
        response = requests.post(
            f"{self.base_url}/upload/init",
            headers=KEY | {"Content-Type": "application/json"},
            data=json.dumps({"filename": name, "total_size": size}),
            timeout=30,
        )
        answer: dict[str, Any] = response.json()
        return answer

    def put(self, announced: dict[str, Any], part: dict[str, Any], data: bytes) -> bool:
        """Send a part as version 2.1 does; True if it takes the part for stored."""
        offset = part["part"] * announced["chunk_size"]
        response = requests.put(
            f"{self.base_url}/upload/{announced['file_id']}/part/{part['part']}",
            headers={"Authorization": f"Bearer {part['token']}"},
            data=data[offset : offset + announced["chunk_size"]],
            timeout=30,
        )
        return response.ok or response.status_code == 409

    def complete(self, upload_id: str) -> dict[str, Any]:
        """Complete without a Content-Type and without a body."""
        url = f"{self.base_url}/upload/{upload_id}/complete"
        answer: dict[str, Any] = requests.post(url, headers=KEY, timeout=30).json()
        return answer

    def cancel(self, upload_id: str) -> bool:
        """Cancel; True if the SDK takes the upload for cancelled."""
        url = f"{self.base_url}/upload/{upload_id}"
        response = requests.delete(url, headers=KEY, timeout=30)
        return response.ok or response.status_code == 404


def test_the_sdk_uploads_in_parallel_and_reads_the_path_of_complete(
    server: Server, content: Content
) -> None:
    sdk, data = Sdk(server), content(7 * MIB + 3)
    announced = sdk.init("videos/movie.mp4", len(data))
    with ThreadPoolExecutor(3) as lanes:
        stored = list(lanes.map(lambda part: sdk.put(announced, part, data), announced["parts"]))
    assert all(stored)
    answer = sdk.complete(announced["file_id"])
    assert (answer["status"], answer["storage_backend"]) == (
        "complete",
        server.store.backend,
    )
    assert server.file(answer["final_path"]).read_bytes() == data


def test_the_sdk_never_takes_a_part_of_another_file_for_stored(
    server: Server, content: Content
) -> None:
    sdk, data = Sdk(server), content(MIB)
    announced = sdk.init("movie.mp4", len(data))
    part = announced["parts"][0]
    assert sdk.put(announced, part, data)
    assert sdk.put(announced, part, data)  # sent again after a lost answer
    assert not sdk.put(announced, part, content(MIB))
    assert server.file(sdk.complete(announced["file_id"])["final_path"]).read_bytes() == data


def test_the_sdk_cancels_an_upload_twice_without_an_error(server: Server) -> None:
    sdk = Sdk(server)
    announced = sdk.init("movie.mp4", MIB)
    assert sdk.cancel(announced["file_id"])
    assert sdk.cancel(announced["file_id"])
