"""Files and folders of a share, over one connection: opened, sized, renamed, listed.

Paths are lists of components below the share. Errors are the protocol's own
(Refused, ConnectionLost); what they mean is decided where the question is known.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from app.storage import smb_requests as requests
from app.storage.smb_channel import Channel
from app.storage.smb_errors import MISSING, ConnectionLost, Refused, Status
from app.storage.smb_names import share_path
from app.storage.smb_requests import Access, Command, Disposition, Entry, Option, Standing

Names = Sequence[str]

#: What a server says that cannot do what is asked for, though it does no harm.
_UNSUPPORTED = frozenset(
    {
        Status.ACCESS_DENIED,
        Status.INVALID_PARAMETER,
        Status.INVALID_DEVICE_REQUEST,
        Status.NOT_SUPPORTED,
    }
)

_STAT = Access.READ_ATTRIBUTES
_WRITE = Access.WRITE_DATA | Access.READ_ATTRIBUTES | Access.WRITE_ATTRIBUTES


class ShareFile:
    """An open file or folder; a context manager. Size and time are those at opening."""

    __slots__ = ("channel", "handle", "is_new", "is_open", "modified_at_seconds", "size_bytes")

    def __init__(self, channel: Channel, created: requests.Created) -> None:
        self.channel = channel
        self.handle = created.handle
        self.is_new = created.is_new
        self.size_bytes = created.size_bytes
        self.modified_at_seconds = created.modified_at_seconds
        self.is_open = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close it; idempotent. The server does it by itself where the connection is gone."""
        if self.is_open:
            self.is_open = False
            with contextlib.suppress(Refused, ConnectionLost):
                self.channel.call(Command.CLOSE, requests.close(self.handle))

    def close_checked(self) -> Standing:
        """Close it and return how it stood just before."""
        self.is_open = False
        answer, _ = self.channel.call_related(
            (Command.QUERY_INFO, requests.query_standing(self.handle)),
            (Command.CLOSE, requests.close(requests.SAME_HANDLE)),
        )
        return requests.standing_of(answer)

    def standing(self) -> Standing:
        """Return its size, and whether it still has a name."""
        answer = self.channel.call(Command.QUERY_INFO, requests.query_standing(self.handle))
        return requests.standing_of(answer)

    def number(self) -> int:
        """Return what tells it from all other files of its volume."""
        return requests.number_of(
            self.channel.call(Command.QUERY_INFO, requests.query_number(self.handle))
        )

    def free_bytes(self) -> int:
        """Return what this user may still store on its volume."""
        return requests.free_bytes_of(
            self.channel.call(Command.QUERY_INFO, requests.query_room(self.handle))
        )

    def read(self, offset: int, length: int) -> memoryview:
        """Return up to ``length`` bytes, at most what one request brings; none at the end."""
        length = min(length, self.channel.read_bytes)
        body = requests.read(self.handle, offset, length)
        try:
            return requests.data_of(self.channel.call(Command.READ, body, payload_bytes=length))
        except Refused as error:
            if error.status == Status.END_OF_FILE:
                return memoryview(b"")
            raise

    def write(self, offset: int, data: bytes) -> None:
        """Write a few bytes."""
        body = requests.write(self.handle, offset, len(data))
        self.channel.finish(self.channel.start(Command.WRITE, body, memoryview(data)))

    def make_sparse(self) -> None:
        """Let holes take no space, where the server knows how."""
        with _unsupported_is_fine():
            self.channel.call(Command.IOCTL, requests.set_sparse(self.handle))

    def set_size(self, size_bytes: int) -> None:
        """Lengthen it by a hole, or cut it off."""
        self.channel.call(Command.SET_INFO, requests.set_size(self.handle, size_bytes))

    def flush(self) -> None:
        """Have the server put it on its disk."""
        self.channel.call(Command.FLUSH, requests.flush(self.handle))

    def rename(self, names: Names) -> None:
        """Give it another name; Refused (OBJECT_NAME_COLLISION) if that is taken."""
        path = share_path(names)
        self.channel.call(Command.SET_INFO, requests.rename(self.handle, path))


def open_file(
    channel: Channel,
    names: Names,
    access: int,
    disposition: Disposition = Disposition.OPEN,
    options: int = Option.FILE,
) -> ShareFile:
    """Open a file. Raises Refused, ConnectionLost."""
    body = requests.create(share_path(names), access, disposition, options)
    return ShareFile(channel, requests.created(channel.call(Command.CREATE, body)))


def find_file(
    channel: Channel, names: Names, access: int, options: int = Option.FILE
) -> ShareFile | None:
    """Open a file, None if it is not there or is about to go."""
    try:
        return open_file(channel, names, access, options=options)
    except Refused as error:
        if error.status in MISSING:
            return None
        raise


def find_for_reading(channel: Channel, names: Names) -> ShareFile | None:
    """Open a file to read it, None if it is not there."""
    return find_file(channel, names, Access.READ_DATA | _STAT)


def find_for_writing(channel: Channel, names: Names) -> ShareFile | None:
    """Open a file to write into it, None if it is not there."""
    return find_file(channel, names, _WRITE)


def find_for_renaming(channel: Channel, names: Names) -> ShareFile | None:
    """Open a file to size and rename it, None if it is not there."""
    return find_file(channel, names, _WRITE | Access.DELETE)


def find_folder(channel: Channel, names: Names) -> ShareFile | None:
    """Open a folder, None if it is not there."""
    return find_file(channel, names, _STAT, Option.FOLDER)


def open_or_create(channel: Channel, names: Names) -> ShareFile:
    """Open a file to write into it, making an empty one where none is."""
    return open_file(channel, names, _WRITE, Disposition.OPEN_OR_CREATE)


def create_passing(channel: Channel, names: Names) -> ShareFile:
    """Make a file that the server removes as soon as it is closed, or its connection breaks."""
    options = Option.FILE | Option.DELETE_ON_CLOSE
    return open_file(channel, names, _WRITE | Access.DELETE, Disposition.CREATE, options)


def open_exclusively(channel: Channel, names: Names) -> ShareFile:
    """Open a file, making it where none is; Refused (SHARING_VIOLATION) if it is open already."""
    how = (Disposition.OPEN_OR_CREATE, Option.FILE)
    body = requests.create(share_path(names), _WRITE, *how, is_shared=False)
    return ShareFile(channel, requests.created(channel.call(Command.CREATE, body)))


def create_new(channel: Channel, names: Names) -> ShareFile:
    """Make a file that can be renamed later; Refused if it is there."""
    return open_file(channel, names, _WRITE | Access.DELETE, Disposition.CREATE)


def read_small_file(channel: Channel, names: Names, max_bytes: int) -> bytes | None:
    """Return at most ``max_bytes`` of a file, None if it is not there. One round trip."""
    try:
        _, answer, _ = channel.call_related(
            (Command.CREATE, _existing(names, Access.READ_DATA | _STAT)),
            (Command.READ, requests.read(requests.SAME_HANDLE, 0, max_bytes)),
            (Command.CLOSE, requests.close(requests.SAME_HANDLE)),
        )
    except Refused as error:
        if error.status in MISSING:
            return None
        if error.status == Status.END_OF_FILE:
            return b""
        raise
    return bytes(requests.data_of(answer))


def stat_file(channel: Channel, names: Names) -> requests.Created | None:
    """Return size and time of a file, None if it is not there. One round trip."""
    try:
        answer, _ = channel.call_related(
            (Command.CREATE, _existing(names, _STAT)),
            (Command.CLOSE, requests.close(requests.SAME_HANDLE)),
        )
    except Refused as error:
        if error.status in MISSING:
            return None
        raise
    return requests.created(answer)


def remove_file(channel: Channel, names: Names) -> bool:
    """Remove a file, also while it is open elsewhere; False if it was not there."""
    options = Option.FILE | Option.DELETE_ON_CLOSE
    try:
        channel.call_related(
            (Command.CREATE, _existing(names, Access.DELETE, options)),
            (Command.CLOSE, requests.close(requests.SAME_HANDLE)),
        )
    except Refused as error:
        if error.status in MISSING:
            return False
        raise
    return True


def _existing(names: Names, access: int, options: int = Option.FILE) -> bytes:
    return requests.create(share_path(names), access, Disposition.OPEN, options)


def make_folder(channel: Channel, names: Names) -> None:
    """Make a folder and its parents, durably; fine if they are there."""
    for depth in range(1, len(names) + 1):
        folder = open_file(
            channel,
            names[:depth],
            Access.READ_ATTRIBUTES | Access.ADD_FILE,
            Disposition.OPEN_OR_CREATE,
            Option.FOLDER,
        )
        with folder, _unsupported_is_fine():
            folder.flush()


def sync_folder(channel: Channel, names: Names) -> None:
    """Make a folder's entries durable, where the server can (MS-FSA 2.1.5.7)."""
    access = Access.READ_ATTRIBUTES | Access.ADD_FILE
    with (
        _unsupported_is_fine(),
        open_file(channel, names, access, options=Option.FOLDER) as folder,
    ):
        folder.flush()


def list_folder(channel: Channel, names: Names) -> Iterator[Entry]:
    """Yield the entries of a folder, ``.`` and ``..`` among them; nothing if it is not there."""
    folder = find_file(channel, names, Access.READ_DATA | _STAT, Option.FOLDER)
    if folder is None:
        return
    with folder:
        while True:
            try:
                answer = channel.call(
                    Command.QUERY_DIRECTORY,
                    requests.list_folder(folder.handle),
                    payload_bytes=requests.LISTING_BYTES,
                )
            except Refused as error:
                if error.status in {Status.NO_MORE_FILES, Status.NO_SUCH_FILE}:
                    return
                raise
            yield from requests.entries_of(answer)


@contextlib.contextmanager
def _unsupported_is_fine() -> Iterator[None]:
    try:
        yield
    except Refused as error:
        if error.status not in _UNSUPPORTED:
            raise
