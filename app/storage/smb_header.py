"""The header that every SMB 2 message begins with: MS-SMB2 2.2.1. Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

HEADER_BYTES = 64
IDENTIFIER = b"\xfeSMB"

#: Fields that signing looks at and changes.
STATUS = slice(8, 12)
FLAGS = slice(16, 20)
MESSAGE_ID = slice(24, 32)
SIGNATURE = slice(48, 64)

_NEXT_COMMAND = slice(20, 24)
_RELATED = 0x4

_HEADER = struct.Struct("<4sHHIHHIIQIIQ16s")


@dataclass(frozen=True, slots=True)
class Answer:
    """What an answer's header says. ``credits`` are granted for further requests."""

    status: int
    credits: int
    message_id: int


def pack_header(
    buffer: bytearray,
    offset: int,
    command: int,
    *,
    message_id: int,
    session_id: int,
    tree_id: int,
    charge: int,
    credits_wanted: int,
    following: int = 0,
    related: bool = False,
) -> None:
    """Write a request's header at ``offset`` of ``buffer``; the signature is the seal's.

    ``following`` is where the next message of a compound begins, from here;
    ``related``: it uses the file of the one before it.
    """
    flags = _RELATED if related else 0
    fixed = (IDENTIFIER, HEADER_BYTES, charge, 0, command, credits_wanted, flags, following)
    _HEADER.pack_into(buffer, offset, *fixed, message_id, 0, tree_id, session_id, b"")


def answer_of(message: memoryview) -> Answer:
    """Read an answer's header."""
    _, _, _, status, _, granted, _, _, message_id, *_ = _HEADER.unpack_from(message)
    return Answer(status, granted, message_id)


def chain(content: memoryview) -> Iterator[memoryview]:
    """Split compounded messages (MS-SMB2 3.2.5.1.9), of which there is mostly one.

    Raises ValueError on what is no message.
    """
    while True:
        if len(content) < HEADER_BYTES or content[:4] != IDENTIFIER:
            raise ValueError("what the server sends is no SMB 2 message")
        following = int.from_bytes(content[_NEXT_COMMAND], "little")
        if not following:
            yield content
            return
        yield content[:following]
        content = content[following:]
