"""What an SMB server refuses, and what the contract's errors make of it.

Messages name settings and what to do, never hosts, users or paths: they are
shown to clients and by ``/health``. The cause, which the log has, names the
status and the key.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from enum import IntEnum

from app.errors import LonghaulError, StorageFull, StorageUnavailable

NOT_ANSWERING = "The SMB server does not answer at the moment; try again"


class Status(IntEnum):
    """Answers that mean something to us: MS-ERREF 2.3.1."""

    SUCCESS = 0
    PENDING = 0x103
    STOPPED_ON_SYMLINK = 0x8000002D
    NO_MORE_FILES = 0x80000006
    INVALID_PARAMETER = 0xC000000D
    NO_SUCH_FILE = 0xC000000F
    INVALID_DEVICE_REQUEST = 0xC0000010
    END_OF_FILE = 0xC0000011
    ACCESS_DENIED = 0xC0000022
    OBJECT_NAME_INVALID = 0xC0000033
    OBJECT_NAME_NOT_FOUND = 0xC0000034
    OBJECT_NAME_COLLISION = 0xC0000035
    OBJECT_PATH_NOT_FOUND = 0xC000003A
    OBJECT_PATH_SYNTAX_BAD = 0xC000003B
    SHARING_VIOLATION = 0xC0000043
    QUOTA_EXCEEDED = 0xC0000044
    DELETE_PENDING = 0xC0000056
    LOGON_FAILURE = 0xC000006D
    ACCOUNT_RESTRICTION = 0xC000006E
    INVALID_LOGON_HOURS = 0xC000006F
    PASSWORD_EXPIRED = 0xC0000071
    ACCOUNT_DISABLED = 0xC0000072
    DISK_FULL = 0xC000007F
    MEDIA_WRITE_PROTECTED = 0xC00000A2
    FILE_IS_A_DIRECTORY = 0xC00000BA
    NOT_SUPPORTED = 0xC00000BB
    NETWORK_NAME_DELETED = 0xC00000C9
    BAD_NETWORK_NAME = 0xC00000CC
    NOT_A_DIRECTORY = 0xC0000103
    NAME_TOO_LONG = 0xC0000106
    FILE_CLOSED = 0xC0000128
    LOGON_TYPE_NOT_GRANTED = 0xC000015B
    USER_SESSION_DELETED = 0xC0000203
    PASSWORD_MUST_CHANGE = 0xC0000224
    NOT_FOUND = 0xC0000225
    ACCOUNT_LOCKED_OUT = 0xC0000234
    PATH_NOT_COVERED = 0xC0000257
    NETWORK_SESSION_EXPIRED = 0xC000035C
    FILE_TOO_LARGE = 0xC0000904


#: Nothing has the name, or it is about to go and cannot be opened any more.
MISSING = frozenset(
    {
        Status.NO_SUCH_FILE,
        Status.OBJECT_NAME_NOT_FOUND,
        Status.OBJECT_PATH_NOT_FOUND,
        Status.NOT_FOUND,
        Status.DELETE_PENDING,
    }
)

#: The server will not have the name, and no retry changes its mind.
NAME_REFUSED = frozenset(
    {
        Status.OBJECT_NAME_INVALID,
        Status.OBJECT_PATH_SYNTAX_BAD,
        Status.NAME_TOO_LONG,
        Status.NOT_A_DIRECTORY,
        Status.FILE_IS_A_DIRECTORY,
        Status.STOPPED_ON_SYMLINK,
    }
)

#: The user or everybody may not write there.
WRITE_REFUSED = frozenset({Status.ACCESS_DENIED, Status.MEDIA_WRITE_PROTECTED})

#: The session, the share or the handle has ended, as with a broken connection.
ENDED = frozenset(
    {
        Status.NETWORK_NAME_DELETED,
        Status.USER_SESSION_DELETED,
        Status.NETWORK_SESSION_EXPIRED,
        Status.FILE_CLOSED,
    }
)

_LOGIN_REFUSED = {
    Status.LOGON_FAILURE: "The SMB server refuses the login: check SMB_USER and SMB_PASS",
    Status.PASSWORD_EXPIRED: "The SMB server says that the password of SMB_USER has expired",
    Status.PASSWORD_MUST_CHANGE: "The SMB server wants a new password for SMB_USER: set one",
    Status.ACCOUNT_DISABLED: "The account SMB_USER is disabled on the SMB server",
    Status.ACCOUNT_LOCKED_OUT: "The account SMB_USER is locked on the SMB server: unlock it",
    Status.ACCOUNT_RESTRICTION: "The SMB server does not let SMB_USER in: an empty password?",
    Status.INVALID_LOGON_HOURS: "The SMB server does not let SMB_USER in at this hour",
    Status.LOGON_TYPE_NOT_GRANTED: "SMB_USER may not log in to the SMB server over the network",
}

_SHARE_REFUSED = {
    Status.BAD_NETWORK_NAME: "The SMB server has no share of the name in SMB_SHARE",
    Status.OBJECT_NAME_NOT_FOUND: "The SMB server has no share of the name in SMB_SHARE",
    Status.NOT_FOUND: "The SMB server has no share of the name in SMB_SHARE",
    Status.ACCESS_DENIED: "SMB_USER may not use the share: give it the right to on the SMB server",
    Status.NOT_SUPPORTED: "The SMB server speaks no SMB 3: enable it there",
}

_FULL = {
    Status.DISK_FULL: None,
    Status.QUOTA_EXCEEDED: "The quota of SMB_USER on the share is used up; free some or raise it",
    Status.FILE_TOO_LARGE: "The file is larger than the share's file system allows",
}

_UNAVAILABLE = {
    Status.ACCESS_DENIED: (
        "The server may not write to the SMB share: it is read-only, or SMB_USER lacks the right"
    ),
    Status.MEDIA_WRITE_PROTECTED: "The SMB share is read-only: make it writable",
    Status.SHARING_VIOLATION: "Another program keeps a file on the SMB share to itself",
    Status.STOPPED_ON_SYMLINK: (
        "A symbolic link stands where the storage expects its own file or folder"
    ),
    Status.NOT_A_DIRECTORY: "A file stands where the storage expects a folder",
    Status.FILE_IS_A_DIRECTORY: "A folder stands where the storage expects a file",
    Status.PATH_NOT_COVERED: (
        "SMB_SHARE is a DFS link, which is not followed: name the server and share behind it"
    ),
    **dict.fromkeys(MISSING, "The SMB share's folder SMB_PATH or one in it is missing"),
}


class Refused(Exception):
    """The server answered a request with an error."""

    def __init__(self, status: int) -> None:
        self.status = status
        self.key = ""

    def __str__(self) -> str:
        known = {known.value: known.name for known in Status}
        return f"{self.key}: {known.get(self.status, 'status')} {self.status:#010x}"


class ConnectionLost(Exception):
    """The connection is gone, and what was on its way may or may not have happened."""


class TimedOut(ConnectionLost):
    """The server did not answer in time, and the connection was given up."""


class LoginRefused(StorageUnavailable):
    """The server does not let the user in. Each further try counts for its lock-out."""


def connect_error(status: int) -> StorageUnavailable:
    """Return the contract's error for a login or a share that was refused."""
    if status in _LOGIN_REFUSED:
        return LoginRefused(_LOGIN_REFUSED[Status(status)])
    if status in _SHARE_REFUSED:
        return StorageUnavailable(_SHARE_REFUSED[Status(status)])
    return StorageUnavailable("The SMB server refuses the connection; the log has the reason")


def storage_error(error: Refused) -> LonghaulError:
    """Return the contract's error for something else that was refused."""
    if error.status in _FULL:
        message = _FULL[Status(error.status)]
        return StorageFull(message) if message else StorageFull()
    if error.status in _UNAVAILABLE:
        return StorageUnavailable(_UNAVAILABLE[Status(error.status)])
    return StorageUnavailable()


@contextlib.contextmanager
def translated(key: str) -> Iterator[None]:
    """Turn what went wrong with the share within into the contract's errors."""
    try:
        yield
    except Refused as error:
        error.key = key
        raise storage_error(error) from error
    except ConnectionLost as error:
        raise StorageUnavailable(NOT_ANSWERING) from error
