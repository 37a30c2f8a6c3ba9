"""Which files can be read, by whom, from where, and until when."""

from __future__ import annotations

import random

import pytest
from sqlalchemy import update

from app.domain.states import State
from app.errors import (
    LonghaulError,
    UploadGone,
    UploadLocked,
    UploadNotFound,
    UploadNotOpen,
    UploadUnfinished,
    WrongRoot,
)
from app.ingest.sending import Reach
from app.ledger.database import Ledger
from app.ledger.models import uploads
from app.ledger.records import FINAL, UploadRecord
from app.storage.base import Storage
from app.storage.memory import MemoryStorage
from app.uploads.creating import Creator, Wish
from app.uploads.reading import FINISHED_AGE_SECONDS, GROWING_AGE_SECONDS, FileReader, OpenFile
from app.uploads.staging import staged_object
from tests.harness.clock import FakeClock
from tests.harness.rig import Rig

CONTENT = random.randbytes(2500)


class Library:
    """A file reader with a rig that makes what it reads."""

    def __init__(self, ledger: Ledger, storage: Storage, clock: FakeClock) -> None:
        self.rig = Rig(ledger, storage, clock)
        self.clock = clock
        self.files = FileReader(ledger, storage, clock, self.rig.policy)

    def finished(self) -> UploadRecord:
        """Return a complete upload."""
        upload = self.rig.queue(CONTENT)
        assert self.rig.finalize()
        return self.rig.record(upload.id)

    def appended(self, length: int | None = None, **wish: object) -> UploadRecord:
        """Return an open upload that is appended to."""
        creator = Creator(
            self.rig.ledger, self.rig.storage, self.clock, self.rig.policy, self.rig.staging
        )
        return creator.create("tus", "alice", Wish("growing.bin", length, **wish))  # type: ignore[arg-type]

    def append(self, upload: UploadRecord, data: bytes, at: int = 0) -> None:
        """Write bytes and record them."""
        with self.rig.storage.writer(staged_object(upload), 0, at, None) as writer:
            writer.write(memoryview(data))
            writer.commit(durable=False)
        self.set(upload, offset=at + len(data))

    def set(self, upload: UploadRecord, **values: object) -> None:
        """Change an upload's row."""
        statement = update(uploads).where(uploads.c.id == upload.id).values(**values)
        self.rig.ledger.transactions.write(lambda connection: connection.execute(statement))

    def open(self, upload: UploadRecord) -> OpenFile:
        """Find and open a file."""
        return self.files.open(self.files.find(upload.id, sees=None))

    def look_again(self, opened: OpenFile) -> Reach:
        """Let what is known grow old and a look end; return what is known then."""
        self.clock.advance(max(FINISHED_AGE_SECONDS, GROWING_AGE_SECONDS))
        opened._watch._look()
        return opened.reach()


@pytest.fixture
def library(ledger: Ledger, storage: Storage, clock: FakeClock) -> Library:
    return Library(ledger, storage, clock)


def test_a_finished_file_is_read_from_its_final_place(library: Library) -> None:
    upload = library.finished()
    view = library.files.find(upload.id, sees=None)
    assert (view.finished, view.length, view.filename) == (True, len(CONTENT), "movie.mp4")
    opened = library.files.open(view)
    assert opened.file.read() == CONTENT
    assert opened.reach() == Reach(len(CONTENT), final=True)
    opened.close()


@pytest.mark.parametrize(
    ("protocol", "sees", "visible"),
    [
        (None, None, True),
        (None, "alice", True),
        ("native", "alice", True),
        (None, "bob", False),
        ("tus", None, False),
    ],
)
def test_a_file_is_for_those_who_see_it(
    library: Library, protocol: str | None, sees: str | None, visible: bool
) -> None:
    upload = library.finished()
    if visible:
        assert library.files.find(upload.id, protocol, sees=sees).upload_id == upload.id
    else:
        with pytest.raises(UploadNotFound):
            library.files.find(upload.id, protocol, sees=sees)


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"state": State.CANCELLED}, UploadGone),
        ({"state": State.EXPIRED}, UploadGone),
        ({"state": State.DELETED}, UploadGone),
        ({"expires_at_ms": 1}, UploadGone),
        ({"state": State.FAILED}, UploadNotOpen),
        ({"state": State.FINALIZING}, UploadUnfinished),
        ({"state": State.OPEN}, UploadUnfinished),
    ],
)
def test_an_upload_in_parts_is_no_file_before_it_is_complete(
    library: Library, values: dict[str, object], error: type[LonghaulError]
) -> None:
    upload = library.rig.create()
    library.set(upload, **values)
    with pytest.raises(error):
        library.files.find(upload.id, sees=None)


def test_a_file_that_is_about_to_be_there_is_waited_for(
    ledger: Ledger, storage: Storage, clock: FakeClock
) -> None:
    library = Library(ledger, storage, clock)
    upload = library.rig.queue(CONTENT)
    sleep = clock.sleep

    def finalize_meanwhile(seconds: float) -> None:
        library.rig.finalize()
        sleep(seconds)

    clock.sleep = finalize_meanwhile  # type: ignore[method-assign]
    policy = Rig(ledger, storage, clock, complete_wait_seconds=2).policy
    files = FileReader(ledger, storage, clock, policy)
    assert files.find(upload.id, sees=None).finished


def test_a_file_that_somebody_has_removed_is_not_found(library: Library) -> None:
    upload = library.finished()
    assert upload.final_key is not None
    library.rig.storage.delete(upload.final_key)
    with pytest.raises(UploadNotFound):
        library.open(upload)


def test_a_file_on_another_nodes_disk_is_left_to_that_node(library: Library) -> None:
    finished, growing = library.finished(), library.appended()
    files = FileReader(library.rig.ledger, MemoryStorage(), library.clock, library.rig.policy)
    for upload in (finished, growing):
        with pytest.raises(WrongRoot):
            files.find(upload.id, sees=None)


def test_a_growing_file_is_read_as_far_as_it_is_recorded(library: Library) -> None:
    upload = library.appended()
    library.append(upload, CONTENT[:1000])
    opened = library.open(upload)
    assert opened.reach() == Reach(1000, final=False)
    library.append(upload, CONTENT[1000:1500], at=1000)
    assert library.look_again(opened) == Reach(1500, final=False)
    library.set(upload, length=1500)
    assert library.look_again(opened) == Reach(1500, final=True)
    assert opened.file.read(1500) == CONTENT[:1500]
    opened.close()


def test_a_growing_file_is_read_on_when_it_has_been_published(library: Library) -> None:
    upload = library.appended(len(CONTENT))
    library.append(upload, CONTENT[:1000])
    opened = library.open(upload)
    library.append(upload, CONTENT[1000:], at=1000)
    publish(library, upload)
    assert library.look_again(opened) == Reach(len(CONTENT), final=True)
    assert opened.file.read() == CONTENT
    opened.close()


def publish(library: Library, upload: UploadRecord) -> None:
    """Publish an appended upload, as finalizing does."""
    key = library.rig.storage.publish(staged_object(upload), {}, lambda *_: None)
    library.set(
        upload, state=State.COMPLETE, final_key=key, staging_key=None, completed_at_ms=1_000
    )


def test_a_file_that_is_published_between_looking_and_opening_is_opened(library: Library) -> None:
    upload = library.appended(len(CONTENT))
    library.append(upload, CONTENT)
    view = library.files.find(upload.id, sees=None)
    publish(library, upload)
    files = FileReader(
        library.rig.ledger,
        library.rig.storage,
        library.clock,
        Rig(library.rig.ledger, library.rig.storage, library.clock, complete_wait_seconds=2).policy,
    )
    opened = files.open(view)
    assert opened.reach() == Reach(len(CONTENT), final=True)
    assert opened.file.read() == CONTENT
    opened.close()


def test_a_growing_file_that_is_not_staged_is_tried_again_later(library: Library) -> None:
    upload = library.appended()
    library.set(upload, staging_key=None)
    with pytest.raises(UploadLocked):
        library.files.find(upload.id, sees=None)
    library.set(upload, staging_key=upload.staging_key)
    view = library.files.find(upload.id, sees=None)
    library.rig.storage.discard(staged_object(upload))
    with pytest.raises(UploadLocked):
        library.files.open(view)


def test_a_file_made_of_others_is_nothing_until_it_is_made(library: Library) -> None:
    upload = library.appended(len(CONTENT), concat=FINAL)
    with pytest.raises(UploadUnfinished):
        library.files.find(upload.id, sees=None)


@pytest.mark.parametrize(
    "values",
    [
        {"state": State.CANCELLED},
        {"state": State.DELETED, "completed_at_ms": 1},
        {"state": State.EXPIRED},
        {"state": State.FAILED},
        {"expires_at_ms": 1},
    ],
)
def test_readers_of_a_growing_file_that_is_given_up_are_broken_off(
    library: Library, values: dict[str, object]
) -> None:
    upload = library.appended(len(CONTENT))
    library.append(upload, CONTENT[:10])
    opened = library.open(upload)
    library.set(upload, **values)
    with pytest.raises(UploadGone):
        library.look_again(opened)
    opened.close()


def test_readers_of_a_finished_file_that_is_deleted_are_broken_off(library: Library) -> None:
    upload = library.finished()
    opened = library.open(upload)
    library.rig.service.cancel(upload.id, sees=None)
    with pytest.raises(UploadGone):
        library.look_again(opened)
    opened.close()


@pytest.mark.parametrize("finished", [True, False])
def test_readers_of_a_file_whose_time_is_over_after_it_was_complete_finish(
    library: Library, finished: bool
) -> None:
    upload = library.finished() if finished else library.appended(len(CONTENT))
    if not finished:
        library.append(upload, CONTENT)
    opened = library.open(upload)
    library.set(upload, state=State.EXPIRED, completed_at_ms=1_000)
    assert library.look_again(opened) == Reach(len(CONTENT), final=True)
    opened.close()


def test_closing_twice_lets_go_once(library: Library) -> None:
    upload = library.finished()
    first, second = library.open(upload), library.open(upload)
    first.close()
    first.close()
    assert second.reach().final
    second.close()
    assert library.files._watches._watches == {}
