"""The backends that the contract is tried on, and the rule that none may keep anything.

Every test that takes ``backend`` runs on each of them. It removes what it made
through the storage's own ``discard`` and ``delete``; what is left then fails it.
Another backend joins with a class here and its name in ``BACKENDS``.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socketserver
import subprocess
import sys
import tempfile
import threading
import uuid
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import app
from app.domain.names import parse_client_name, target_key
from app.domain.parts import Geometry
from app.errors import PartsLost, StorageUnavailable
from app.storage import s3_transfer
from app.storage import smb_requests as requests
from app.storage.base import Arrival, Progress, StagedObject, Storage
from app.storage.local import LocalStorage
from app.storage.memory import MemoryStorage
from app.storage.s3 import MIN_PART_BYTES, S3Storage
from app.storage.smb import SmbStorage
from app.storage.smb_channel import Channel
from app.storage.smb_login import Target, log_in
from app.storage.smb_names import share_path, stored_name
from app.storage.smb_requests import Access, Command, Disposition, Option
from app.storage.smb_share import Share
from tests.harness.s3 import S3Server, stored
from tests.harness.samba import Samba
from tests.harness.storages import TIMEOUT_SECONDS, local_place, s3_place, smb_place

KIB = 1024
INSTANCE = "an-instance"

#: Where the code under test is imported from, for processes that tests start.
SOURCE = Path(app.__file__).parent.parent

#: A process that has not answered by then never will; none needs more than a few seconds.
PROCESS_SECONDS = 60


class Backend(ABC):
    """A storage under test, and its surroundings."""

    #: Small enough to be quick, and no multiple of any block.
    part_bytes = 64 * KIB + 1
    #: Whether uploads are such that their whole file's checksum will be compared.
    verified = False
    #: Whether of two that publish under one name at the same moment both may succeed.
    may_replace = False
    #: How many may publish one upload at the same moment.
    publishers = 8
    #: What ``commit`` raises where the object has vanished since the writer was opened.
    vanished_meanwhile: tuple[type[Exception], ...] = (PartsLost,)
    storage: Storage

    def __init__(self) -> None:
        self._receipts: defaultdict[str, dict[int, str | None]] = defaultdict(dict)

    @abstractmethod
    def opened(self, instance_id: str = INSTANCE) -> Storage:
        """Return a storage on the same root, as a process that has just started has it."""

    @abstractmethod
    def elsewhere(self) -> Storage:
        """Return a storage of the same kind on another root."""

    @abstractmethod
    def leftovers(self) -> list[str]:
        """Return whatever is stored now, under its key or another telling name."""

    @abstractmethod
    def expected_location(self, key: str) -> str:
        """Return what ``location`` should say."""

    def unstaged(
        self, length: int | None, name: str = "movie.mp4", key: str | None = None
    ) -> StagedObject:
        """Return a new upload that the storage has not heard of; ``key``: its final key."""
        upload_id = str(uuid.uuid4())
        key = key or target_key(upload_id, parse_client_name(name))
        if length is None:
            arrival = Arrival(None, None, None, self.verified)
        else:
            cut = Geometry.of(length, self.part_bytes)
            arrival = Arrival(length, cut.part_size, cut.part_count, self.verified)
        return StagedObject(upload_id, length, key, self.storage.root_for(arrival))

    def staged(
        self, length: int | None, name: str = "movie.mp4", key: str | None = None
    ) -> StagedObject:
        """Return a new upload that has its staged object."""
        unstaged = self.unstaged(length, name, key)
        return replace(unstaged, staging_key=self.storage.create(unstaged))

    def put(
        self, staged: StagedObject, data: bytes, *, index: int = 0, offset: int = 0
    ) -> str | None:
        """Write ``data`` as one part and return its receipt."""
        with self.storage.writer(staged, index, offset, len(data)) as writer:
            writer.write(memoryview(data))
            receipt = writer.commit(durable=True)
        self._receipts[staged.upload_id][index] = receipt
        return receipt

    def filled(self, data: bytes, name: str = "movie.mp4", key: str | None = None) -> StagedObject:
        """Return a new upload whose bytes are all there, in one part."""
        staged = self.staged(len(data), name, key)
        if data:
            self.put(staged, data)
        return staged

    def put_part(self, staged: StagedObject, content: bytes, index: int) -> str | None:
        """Write part ``index`` of ``content`` and return its receipt."""
        span = Geometry.of(len(content), self.part_bytes).span(index)
        data = content[span.offset : span.offset + span.length]
        return self.put(staged, data, index=index, offset=span.offset)

    def receipts(self, staged: StagedObject) -> dict[int, str | None]:
        """Return the receipts that ``put`` got for an upload."""
        return self._receipts[staged.upload_id]

    def publish(
        self,
        staged: StagedObject,
        receipts: dict[int, str | None] | None = None,
        storage: Storage | None = None,
        on_progress: Progress = lambda done, total: None,
    ) -> str:
        """Publish, by default with the receipts that ``put`` got, through ``self.storage``."""
        known = self.receipts(staged) if receipts is None else receipts
        return (storage or self.storage).publish(staged, known, on_progress)

    def read(self, key: str) -> bytes:
        """Return all bytes of an object."""
        with self.storage.open(key) as file:
            return file.read()


class MemoryBackend(Backend):
    def __init__(self) -> None:
        super().__init__()
        self.storage = MemoryStorage(instance_id=INSTANCE)

    def opened(self, instance_id: str = INSTANCE) -> Storage:
        return self.storage.sibling(instance_id)

    def elsewhere(self) -> Storage:
        return MemoryStorage(instance_id=INSTANCE)

    def leftovers(self) -> list[str]:
        return self.storage.stored_keys()

    def expected_location(self, key: str) -> str:
        return f"memory:///{key}"


class LocalBackend(Backend):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.root = folder / "uploads"
        self._elsewhere = folder / "elsewhere"
        self.storage = LocalStorage(self.root, INSTANCE)
        self._open_before = open_descriptors()

    def opened(self, instance_id: str = INSTANCE, **options: str) -> Storage:
        return LocalStorage(self.root, instance_id, **options)

    def elsewhere(self) -> Storage:
        return LocalStorage(self._elsewhere, INSTANCE)

    def below(self, *names: str) -> LocalStorage:
        """Open a storage in a folder of the root."""
        return LocalStorage(self.root.joinpath(*names), INSTANCE)

    def place(self, *below: str) -> tuple[str, str]:
        """Return what another process opens such a storage with."""
        return local_place(self.root.joinpath(*below))

    def leftovers(self) -> list[str]:
        files = [
            str(path.relative_to(self.root))
            for path in self.root.rglob("*")
            if not path.is_dir() or path.is_symlink()
        ]
        files.remove(".staging/root-id")
        return files + [f"open: {name}" for name in open_descriptors() - self._open_before]

    def expected_location(self, key: str) -> str:
        return f"{self.root}/{key}"


class SmbBackend(Backend):
    """A folder below ``folder`` of a share; ``timeout_seconds``: longer than any answer takes."""

    def __init__(
        self,
        samba: Samba,
        folder: str,
        *,
        share: str = "share",
        encryption: str = "auto",
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        super().__init__()
        self.samba = samba
        self.path = (folder, "root")
        self.root = samba.path_of(share).joinpath(*self.path)
        self._timeout_seconds = timeout_seconds
        self._share_name = share
        self._encryption = encryption
        self._shares: list[Share] = []
        self.storage = self.opened()

    def target(self, **changes: object) -> Target:
        """Return where the share is."""
        target = Target(
            host="127.0.0.1",
            port=self.samba.port,
            share=self._share_name,
            user=self.samba.user,
            password=self.samba.password,
            encryption=self._encryption,
        )
        return replace(target, **changes)  # type: ignore[arg-type]

    def share(self, *, connections: int = 2, **changes: object) -> Share:
        """Return connections of one's own, ended after the test."""
        share = Share(
            self.target(**changes), connections=connections, timeout_seconds=self._timeout_seconds
        )
        self._shares.append(share)
        return share

    def opened(self, instance_id: str = INSTANCE, **options: str) -> SmbStorage:
        return SmbStorage(self.share(), self.path, instance_id, **options)

    def elsewhere(self) -> SmbStorage:
        return self.below("elsewhere")

    def below(self, *names: str) -> SmbStorage:
        """Open a storage in a folder of the root."""
        return SmbStorage(self.share(), (*self.path, *names), INSTANCE)

    def place(self, *below: str) -> tuple[str, str]:
        """Return what another process opens such a storage with."""
        return smb_place(self.target(), (*self.path, *below))

    def leftovers(self) -> list[str]:
        """Keys of all files, found on the server's own disk."""
        elsewhere = self.root / "elsewhere"
        files = [
            "/".join(map(client_name, path.relative_to(self.root).parts))
            for path in self.root.rglob("*")
            if not path.is_dir() and not path.is_relative_to(elsewhere)
        ]
        files.remove(".staging/root-id")
        return [name for name in files if not re.fullmatch(r"\.staging/[0-9a-f]\.claim", name)]

    def expected_location(self, key: str) -> str:
        return f"smb://127.0.0.1/{self._share_name}/{'/'.join(self.path)}/{key}"

    @contextlib.contextmanager
    def opened_by_another_program(self, key: str) -> Iterator[None]:
        """Keep a file open in such a way that nobody may rename or remove it meanwhile."""
        channel = Channel(log_in(self.target(), self._timeout_seconds), self._timeout_seconds)
        path = share_path((*self.path, *key.split("/")))
        body = bytearray(requests.create(path, Access.READ_DATA, Disposition.OPEN, Option.FILE))
        body[32:36] = (1).to_bytes(4, "little")  # ShareAccess: others may read
        created = requests.created(channel.call(Command.CREATE, bytes(body)))
        yield
        channel.call(Command.CLOSE, requests.close(created.handle))
        channel.close()

    def reconnect(self) -> None:
        """Let everybody make new connections, as after a restart of the server."""
        for share in self._shares:
            share.close()

    def close(self) -> None:
        """End all connections."""
        self.reconnect()


def client_name(stored: str) -> str:
    """Return what a client has called a file that has this name on a share."""
    mapped = {stored_name(f"{character}x")[0]: character for character in '"*:<>?|'}
    mapped |= {stored_name(f"x{character}")[1]: character for character in " ."}
    return stored.translate(str.maketrans(mapped))


def open_descriptors() -> set[str]:
    """Return the targets of this process's descriptors of files and folders."""
    found = set()
    for number in os.listdir("/dev/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue  # the listing's own, or a system without /proc
        if target.startswith("/"):
            found.add(target)
    return found


class S3Backend(Backend):
    """A bucket of a real server, and one of the two ways into it."""

    def __init__(self, server: S3Server, folder: Path, way: str) -> None:
        super().__init__()
        self.server = server
        self.verified = way == "staged"
        if way == "direct":
            self.part_bytes = MIN_PART_BYTES
            self.may_replace = not server.conditional_complete
            self.publishers = 8 if server.completes_once else 1
            if not server.tells_of_aborts_meanwhile:  # an internal error; the next part tells
                self.vanished_meanwhile = (PartsLost, StorageUnavailable)
        self.client = server.client()
        self.bucket = server.shared_bucket("conformance")
        self.staging = folder / "staging"
        self._folder = folder
        self.storage = self.opened()

    def opened(self, instance_id: str = INSTANCE, **changes: object) -> S3Storage:
        return S3Storage(self.server.place(self.bucket, **changes), str(self.staging), instance_id)

    def elsewhere(self) -> Storage:
        place = self.server.place(self.server.shared_bucket("elsewhere"))
        return S3Storage(place, str(self._folder / "elsewhere"), INSTANCE)

    def place(self) -> tuple[str, str]:
        """Return what another process opens this storage with."""
        return s3_place(self.server.place(self.bucket), self.staging)

    def leftovers(self) -> list[str]:
        staged = [f"on disk: {path.name}" for path in self.staging.rglob("*.partial")]
        objects = stored(self.client, self.bucket)
        objects.remove(".staging/root-id")
        if objects:
            self.server.give_up_bucket("conformance")  # it would fail the next tests, too
        return objects + staged

    def expected_location(self, key: str) -> str:
        return f"s3://{self.bucket}/{key}"


BACKENDS = [
    "memory",
    "local",
    "smb",
    *(f"{server} {way}" for server in ("ceph", "localstack") for way in ("direct", "staged")),
]

#: Fixtures of tests that are not for the direct way: its parts have to be of one
#: size, and cannot be read back. Uploads that need either go the other way.
NOT_DIRECT = {"random_writes", "readable"}

#: And those that are not for LocalStack: where a part is given up and sent again at once
#: it closes the new one's file with the old one's (one time in forty). Ceph does not.
NOT_LOCALSTACK = {"sent_again_at_once"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what a backend does not claim to be capable of."""
    items[:] = [item for item in items if not _left_out(item)]


def _left_out(item: pytest.Item) -> bool:
    call, asked_for = getattr(item, "callspec", None), _fixtures(item)
    backend = "" if call is None else str(call.params.get("backend", ""))
    if backend == "localstack direct" and NOT_LOCALSTACK & asked_for:
        return True
    return backend.endswith("direct") and bool(NOT_DIRECT & asked_for)


def _fixtures(item: pytest.Item) -> set[str]:
    return set(getattr(item, "fixturenames", ()))


@pytest.fixture
def random_writes() -> None:
    """Asked for by tests that write parts of any size in any place."""


@pytest.fixture
def readable() -> None:
    """Asked for by tests that read the bytes of unfinished uploads back."""


@pytest.fixture
def sent_again_at_once() -> None:
    """Asked for by tests that send a part anew while its server ends the former attempt."""


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    """Each backend in turn, empty; a test that leaves something there fails."""
    if request.param == "memory":
        chosen: Backend = MemoryBackend()
    elif " " in request.param:
        server, way = request.param.split()
        chosen = S3Backend(request.getfixturevalue(server), tmp_path, way)
    else:
        yield request.getfixturevalue(request.param)  # which looks for leftovers itself
        return
    yield chosen
    assert chosen.leftovers() == []


def _s3(server: S3Server, folder: Path, way: str) -> Iterator[S3Backend]:
    backend = S3Backend(server, folder, way)
    yield backend
    assert backend.leftovers() == []


@pytest.fixture(params=["ceph", "localstack"])
def direct(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[S3Backend]:
    """A bucket of each S3 server, for what only the direct way can do."""
    yield from _s3(request.getfixturevalue(request.param), tmp_path, "direct")


@pytest.fixture(params=["ceph", "localstack"])
def transferred(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[S3Backend]:
    """A bucket of each S3 server, for transfers at the end, cut into parts of S3's least size."""
    monkeypatch.setattr(s3_transfer, "PART_BYTES", MIN_PART_BYTES)
    yield from _s3(request.getfixturevalue(request.param), tmp_path, "staged")


@pytest.fixture
def localstack_direct(localstack: S3Server, tmp_path: Path) -> Iterator[S3Backend]:
    """A bucket of LocalStack's, which minds checksums as AWS does."""
    yield from _s3(localstack, tmp_path, "direct")


@pytest.fixture
def localstack_transferred(
    localstack: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[S3Backend]:
    """The same for transfers at the end, cut into parts of S3's least size."""
    monkeypatch.setattr(s3_transfer, "PART_BYTES", MIN_PART_BYTES)
    yield from _s3(localstack, tmp_path, "staged")


@pytest.fixture
def ceph_direct(ceph: S3Server, tmp_path: Path) -> Iterator[S3Backend]:
    """A bucket of Ceph's, which can be killed and keeps what it has."""
    yield from _s3(ceph, tmp_path, "direct")


@pytest.fixture
def ceph_staged(ceph: S3Server, tmp_path: Path) -> Iterator[S3Backend]:
    """The same for transfers at the end, cut as they always are."""
    yield from _s3(ceph, tmp_path, "staged")


@pytest.fixture
def ceph_transferred(
    ceph: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[S3Backend]:
    """The same for transfers at the end, cut into parts of S3's least size."""
    monkeypatch.setattr(s3_transfer, "PART_BYTES", MIN_PART_BYTES)
    yield from _s3(ceph, tmp_path, "staged")


@pytest.fixture
def smb_backend() -> type[SmbBackend]:
    """Make an SmbBackend on a server of one's own choice."""
    return SmbBackend


@pytest.fixture
def smb(samba: Samba) -> Iterator[SmbBackend]:
    """A share alone, for what only a share can do."""
    backend = SmbBackend(samba, f"folder-{uuid.uuid4().hex}")
    yield backend
    backend.close()
    assert backend.leftovers() == []


@pytest.fixture
def local_backend() -> type[LocalBackend]:
    """Make a LocalBackend below a folder of one's own, as on a disk mounted there."""
    return LocalBackend


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalBackend]:
    """Local disk alone, for what only a disk can do."""
    backend = LocalBackend(tmp_path)
    yield backend
    assert backend.leftovers() == []


@pytest.fixture
def free_listener() -> Iterator[int]:
    """The port of a listener that accepts connections and ends them at once."""
    with socketserver.ThreadingTCPServer(
        ("127.0.0.1", 0), socketserver.BaseRequestHandler
    ) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach, as pytest's own is not; for tests without privileges."""
    path = Path(tempfile.mkdtemp(prefix="longhaul-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


class Processes:
    """Starts Python programs that use the code under test, and ends those that are left."""

    def __init__(self) -> None:
        self._started: list[subprocess.Popen[str]] = []

    def start(self, program: str, *arguments: object) -> subprocess.Popen[str]:
        """Start ``program`` (Python source) with pipes for its input and output."""
        process = subprocess.Popen(
            [sys.executable, "-c", program, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(SOURCE), *sys.path])},
        )
        self._started.append(process)
        return process

    def run(
        self, program: str, *arguments: object, patience_seconds: float = PROCESS_SECONDS
    ) -> str:
        """Run ``program`` to its end and return what it printed; it must succeed."""
        process = self.start(program, *arguments)
        output, _ = process.communicate(timeout=patience_seconds)
        assert process.returncode == 0, output
        return output

    def kill(self, process: subprocess.Popen[str]) -> None:
        """Kill -9, and wait until it is dead."""
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=PROCESS_SECONDS)

    def end(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
            with process:  # closes its pipes and waits
                pass


@pytest.fixture
def processes() -> Iterator[Processes]:
    """Processes beside this one, none of which outlives the test."""
    processes = Processes()
    yield processes
    processes.end()
