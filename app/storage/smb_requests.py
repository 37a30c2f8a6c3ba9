"""The requests that files on a share need, as bytes, and what their answers say.

Pure: no sockets, no sessions. Each function names the section of MS-SMB2 (or of
MS-FSCC, for the information inside) whose layout it writes or reads. Sizes and
offsets are bytes, times Unix seconds.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from app.storage.smb_header import HEADER_BYTES


class Command(IntEnum):
    """MS-SMB2 2.2.1.2."""

    CREATE = 5
    CLOSE = 6
    FLUSH = 7
    READ = 8
    WRITE = 9
    IOCTL = 11
    ECHO = 13
    QUERY_DIRECTORY = 14
    QUERY_INFO = 16
    SET_INFO = 17


class Access:
    """Rights that a handle is opened with: MS-SMB2 2.2.13.1."""

    READ_DATA = 0x1
    WRITE_DATA = 0x2
    ADD_FILE = 0x2  #: the same bit, of a folder
    READ_ATTRIBUTES = 0x80
    WRITE_ATTRIBUTES = 0x100
    DELETE = 0x10000
    SYNCHRONIZE = 0x100000


class Disposition(IntEnum):
    """What opening does where a file is, and where none is: MS-SMB2 2.2.13."""

    OPEN = 1
    CREATE = 2
    OPEN_OR_CREATE = 3


class Option:
    """MS-SMB2 2.2.13, CreateOptions."""

    FOLDER = 0x1
    FILE = 0x40
    DELETE_ON_CLOSE = 0x1000


#: A related request of a compound uses the handle of the one before it.
SAME_HANDLE = b"\xff" * 16

_IMPERSONATION = 2
#: Whoever has a file open lets others read, write, rename and delete it.
_SHARE_ALL = 7
_SHARE_NOTHING = 0
_NORMAL_FILE = 0x80
_CREATED_NOW = 2

_FILE, _FILE_SYSTEM = 1, 2
_DIRECTORY_INFORMATION = 1
_STANDARD_INFORMATION = 5
_INTERNAL_INFORMATION = 6
_RENAME_INFORMATION = 10
_END_OF_FILE_INFORMATION = 20
_FULL_SIZE_INFORMATION = 7
_FSCTL_SET_SPARSE = 0x900C4
_IS_FSCTL = 1

#: Entries of a folder asked for at a time, in bytes; one credit's worth.
LISTING_BYTES = 64 * 1024

_CREATE = struct.Struct("<HBBIQQIIIIIHHII")
_CREATED = struct.Struct("<HBBIQQQQQQII16s")
_CLOSE = struct.Struct("<HHI16s")
_READ = struct.Struct("<HBBIQ16sIIIHHB")
_READ_ANSWER = struct.Struct("<HBBI")
_WRITE = struct.Struct("<HHIQ16sIIHHI")
_WRITTEN = struct.Struct("<HHI")
_IOCTL = struct.Struct("<HHI16sIIIIIIII")
_QUERY_DIRECTORY = struct.Struct("<HBBI16sHHI")
_QUERY_INFO = struct.Struct("<HBBIHHIII16s")
_SET_INFO = struct.Struct("<HBBIHHI16s")
_BUFFER = struct.Struct("<HHI")
_STANDARD = struct.Struct("<QQI??")
_RENAME = struct.Struct("<?7xQI")
_FULL_SIZE = struct.Struct("<QQQII")
_ENTRY = struct.Struct("<IIQQQQQQII")

#: Where a WRITE's data begin in its message.
WRITE_DATA_OFFSET = HEADER_BYTES + _WRITE.size

#: 100 ns since 1601 in a second, and the seconds from 1601 to 1970 (MS-DTYP 2.3.3).
_TICKS_PER_SECOND = 10_000_000
_EPOCH_SECONDS = 11_644_473_600


@dataclass(frozen=True, slots=True)
class Created:
    """An opened file or folder; ``is_new``: it was not there before."""

    handle: bytes
    is_new: bool
    size_bytes: int
    modified_at_seconds: float


@dataclass(frozen=True, slots=True)
class Standing:
    """Size of an open file, and whether it still has a name that is not about to go."""

    size_bytes: int
    linked: bool


@dataclass(frozen=True, slots=True)
class Entry:
    """A name in a folder."""

    name: str
    modified_at_seconds: float


def create(
    path: str, access: int, disposition: Disposition, options: int, *, is_shared: bool = True
) -> bytes:
    """Open ``path``, relative to the share, with ``\\`` between names: MS-SMB2 2.2.13.

    ``is_shared``: others may open it meanwhile.
    """
    name = path.encode("utf-16-le")
    head = (57, 0, 0, _IMPERSONATION, 0, 0, access | Access.SYNCHRONIZE)
    attributes = 0 if options & Option.FOLDER else _NORMAL_FILE
    how = (attributes, _SHARE_ALL if is_shared else _SHARE_NOTHING, disposition, options)
    return _CREATE.pack(*head, *how, HEADER_BYTES + _CREATE.size, len(name), 0, 0) + name


def created(message: memoryview) -> Created:
    """MS-SMB2 2.2.14."""
    fields = _CREATED.unpack_from(message, HEADER_BYTES)
    action, modified_at, size_bytes, handle = fields[3], fields[6], fields[9], fields[12]
    return Created(handle, action == _CREATED_NOW, size_bytes, _unix_seconds(modified_at))


def close(handle: bytes) -> bytes:
    """MS-SMB2 2.2.15."""
    return _CLOSE.pack(24, 0, 0, handle)


def flush(handle: bytes) -> bytes:
    """MS-SMB2 2.2.17."""
    return _CLOSE.pack(24, 0, 0, handle)


def echo() -> bytes:
    """MS-SMB2 2.2.28."""
    return struct.pack("<HH", 4, 0)


def read(handle: bytes, offset: int, length: int) -> bytes:
    """MS-SMB2 2.2.19."""
    return _READ.pack(49, HEADER_BYTES + 16, 0, length, offset, handle, 0, 0, 0, 0, 0, 0)


def data_of(message: memoryview) -> memoryview:
    """Return the bytes that were read: MS-SMB2 2.2.20."""
    _, start, _, length = _READ_ANSWER.unpack_from(message, HEADER_BYTES)
    return message[start : start + length]


def write(handle: bytes, offset: int, length: int) -> bytes:
    """The head of a WRITE, whose data follow it: MS-SMB2 2.2.21."""
    return _WRITE.pack(49, WRITE_DATA_OFFSET, length, offset, handle, 0, 0, 0, 0, 0)


def written_bytes(message: memoryview) -> int:
    """MS-SMB2 2.2.22."""
    count: int = _WRITTEN.unpack_from(message, HEADER_BYTES)[2]
    return count


def set_sparse(handle: bytes) -> bytes:
    """Let holes take no space: MS-FSCC 2.3.64."""
    end = HEADER_BYTES + _IOCTL.size
    return _IOCTL.pack(57, 0, _FSCTL_SET_SPARSE, handle, end, 0, 0, end, 0, 0, _IS_FSCTL, 0)


def list_folder(handle: bytes) -> bytes:
    """Ask for the next entries of a folder: MS-SMB2 2.2.33."""
    pattern = "*".encode("utf-16-le")
    start = HEADER_BYTES + _QUERY_DIRECTORY.size
    head = (33, _DIRECTORY_INFORMATION, 0, 0, handle, start, len(pattern), LISTING_BYTES)
    return _QUERY_DIRECTORY.pack(*head) + pattern


def entries_of(message: memoryview) -> Iterator[Entry]:
    """Yield the entries of an answer: MS-FSCC 2.4.10."""
    buffer = _buffer_of(message)
    while buffer:
        following, _, _, _, modified_at, _, _, _, _, length = _ENTRY.unpack_from(buffer)
        name = bytes(buffer[_ENTRY.size : _ENTRY.size + length]).decode("utf-16-le", "replace")
        yield Entry(name, _unix_seconds(modified_at))
        if not following:
            return
        buffer = buffer[following:]


def query_standing(handle: bytes) -> bytes:
    """MS-SMB2 2.2.37, MS-FSCC 2.4.47."""
    return _query(_FILE, _STANDARD_INFORMATION, 24, handle)


def standing_of(message: memoryview) -> Standing:
    """A file that was removed on the server itself has no links left."""
    _, size_bytes, links, delete_pending, _ = _STANDARD.unpack_from(_buffer_of(message))
    return Standing(size_bytes, bool(links) and not delete_pending)


def query_number(handle: bytes) -> bytes:
    """Ask for what tells one file of a volume from another: MS-FSCC 2.4.27."""
    return _query(_FILE, _INTERNAL_INFORMATION, 8, handle)


def number_of(message: memoryview) -> int:
    """Return that number."""
    return int.from_bytes(_buffer_of(message)[:8], "little")


def query_room(handle: bytes) -> bytes:
    """Ask how full the volume is: MS-FSCC 2.5.4."""
    return _query(_FILE_SYSTEM, _FULL_SIZE_INFORMATION, _FULL_SIZE.size, handle)


def free_bytes_of(message: memoryview) -> int:
    """Return what this user may still store, quotas considered."""
    _, available, _, sectors, sector_bytes = _FULL_SIZE.unpack_from(_buffer_of(message))
    return int(available * sectors * sector_bytes)


def set_size(handle: bytes, size_bytes: int) -> bytes:
    """MS-SMB2 2.2.39, MS-FSCC 2.4.14."""
    return _set(_END_OF_FILE_INFORMATION, struct.pack("<Q", size_bytes), handle)


def rename(handle: bytes, path: str) -> bytes:
    """Give an open file another name, unless that is taken: MS-FSCC 2.4.42.2."""
    name = path.encode("utf-16-le")
    # Windows wants a buffer of at least 24 bytes, however short the name.
    information = (_RENAME.pack(False, 0, len(name)) + name).ljust(24, b"\0")
    return _set(_RENAME_INFORMATION, information, handle)


def _query(kind: int, information: int, size: int, handle: bytes) -> bytes:
    return _QUERY_INFO.pack(41, kind, information, size, 0, 0, 0, 0, 0, handle)


def _set(information: int, buffer: bytes, handle: bytes) -> bytes:
    start = HEADER_BYTES + _SET_INFO.size
    return _SET_INFO.pack(33, _FILE, information, len(buffer), start, 0, 0, handle) + buffer


def _buffer_of(message: memoryview) -> memoryview:
    _, start, length = _BUFFER.unpack_from(message, HEADER_BYTES)
    return message[start : start + length]


def _unix_seconds(ticks: int) -> float:
    return ticks / _TICKS_PER_SECOND - _EPOCH_SECONDS
