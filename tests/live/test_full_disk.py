"""A disk that is full in the middle of a body: told by each protocol's contract, nothing lost."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from tests.conftest import StartServer
from tests.harness.mounts import Mounts
from tests.harness.native import KIB, MIB, Native
from tests.harness.resumable import File, Resumable
from tests.harness.server import Server
from tests.harness.stores import Disk, StoredFile
from tests.harness.tus import Tus, finished_file
from tests.harness.wire import assert_problem
from tests.live.wire import until

pytestmark = pytest.mark.live

Content = Callable[[int], bytes]

DISK_KIB = 6 * 1024

#: What is left when a body comes that is larger.
ROOM_BYTES = 300 * KIB


class FullDisk(Disk):
    """A small disk that a test fills up, and empties again."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._filler = root / "filler"

    def fill(self, room_bytes: int = ROOM_BYTES) -> None:
        """Leave so much room."""
        room = os.statvfs(self.root)
        with self._filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize - room_bytes)

    def empty(self) -> None:
        """Make room."""
        self._filler.unlink()


@pytest.fixture
def disk(mounts: Mounts, tmp_path: Path) -> FullDisk:
    mounts.tmpfs(tmp_path / "disk", size_kib=DISK_KIB)
    return FullDisk(tmp_path / "disk")


@pytest.fixture
def server(start_server: StartServer, disk: FullDisk) -> Server:
    return start_server(store=disk, WORKERS=1, CHECK_FREE_DISK="off")


class Client(ABC):
    """Sends a file of 2 MiB by some protocol, in two requests."""

    full = 507

    def __init__(self, server: Server, data: bytes) -> None:
        self.server = server
        self.data = data

    @abstractmethod
    def send_first(self) -> None:
        """Send the first MiB."""

    @abstractmethod
    def send_second(self) -> requests.Response:
        """Send what the server has not got."""

    @abstractmethod
    def require_first(self) -> None:
        """Assert that the server has the first MiB, and not all of the second."""

    @abstractmethod
    def finished(self) -> StoredFile:
        """Return the file when all has been sent."""


class NativeClient(Client):
    def send_first(self) -> None:
        self.native = Native(self.server)
        self.upload = self.native.init(size=2 * MIB)
        self.native.put(self.upload, 0, self.data[:MIB])

    def send_second(self) -> requests.Response:
        return self.native.put_raw(self.upload, 1, self.data[MIB:])

    def require_first(self) -> None:
        assert self.native.pending(self.upload) == [1]

    def finished(self) -> StoredFile:
        return self.server.file(self.native.complete(self.upload)["final_path"])


class ResumableClient(Client):
    full = 503

    def send_first(self) -> None:
        self.resumable = Resumable(self.server)
        self.file = File(self.data, chunk_size=MIB)
        self.resumable.octet(self.file, 1)

    def send_second(self) -> requests.Response:
        self.answer = self.resumable.octet_raw(self.file, 2)
        return self.answer

    def require_first(self) -> None:
        assert [self.resumable.test(self.file, number) for number in (1, 2)] == [True, False]

    def finished(self) -> StoredFile:
        return self.server.file(self.answer.json()["final_path"])


class FormClient(ResumableClient):
    def send_second(self) -> requests.Response:
        self.answer = self.resumable.form_raw(self.file, 2)
        return self.answer


class TusClient(Client):
    def send_first(self) -> None:
        self.tus = Tus(self.server)
        self.upload = self.tus.create(2 * MIB)
        self.tus.patch(self.upload, 0, self.data[:MIB])

    def send_second(self) -> requests.Response:
        offset = self.tus.offset(self.upload)
        return self.tus.patch_raw(self.upload, offset, self.data[offset:])

    def require_first(self) -> None:
        assert MIB <= self.tus.offset(self.upload) < 2 * MIB

    def finished(self) -> StoredFile:
        return until(lambda: finished_file(self.server, self.upload), what="the file is stored")


@pytest.mark.parametrize("kind", [NativeClient, ResumableClient, FormClient, TusClient])
def test_a_disk_that_is_full_in_the_middle_of_a_body_loses_nothing(
    server: Server, disk: FullDisk, content: Content, kind: type[Client]
) -> None:
    client = kind(server, content(2 * MIB))
    client.send_first()
    disk.fill()
    for _ in range(2):
        answer = client.send_second()
        assert_problem(answer.status_code, answer.content, client.full, "storage_full")
        assert ("Retry-After" in answer.headers) == (client.full == 503)
        client.require_first()
    disk.empty()
    assert client.send_second().status_code in (200, 204)
    assert client.finished().read_bytes() == client.data


def test_an_upload_that_is_created_with_bytes_keeps_those_that_fit(
    server: Server, disk: FullDisk, content: Content
) -> None:
    tus, data = Tus(server), content(5 * MIB)
    disk.fill(room_bytes=3 * MIB)
    upload = tus.create(len(data), data)
    offset = tus.offset(upload)
    assert MIB < offset <= 3 * MIB, "up to a buffer less than there was room for"
    disk.empty()
    assert tus.patch(upload, offset, data[offset:]) == len(data)
    path = until(lambda: finished_file(server, upload), what="the file is stored")
    assert path.read_bytes() == data
