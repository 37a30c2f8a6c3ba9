"""Requests and their answers, and how several requests are laid out to be sent as one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from app.storage.smb_header import HEADER_BYTES, pack_header
from app.storage.smb_requests import Command
from app.storage.smb_seal import LENGTH_BYTES

#: Where messages of a compound begin, in bytes (MS-SMB2 3.2.4.1.4).
_ALIGNMENT = 8


class Exchange:
    """A request that is sent, and its answer once it has come."""

    __slots__ = (
        "answer",
        "charge",
        "command",
        "interim",
        "message_id",
        "offset",
        "status",
    )

    def __init__(self, command: Command, charge: int) -> None:
        self.command = command
        self.charge = charge  #: credits it costs
        self.offset = LENGTH_BYTES  #: where its header lies
        self.message_id = 0
        self.interim = False  #: the server has said that it will take its time
        self.status: int | None = None
        self.answer = memoryview(b"")


def lay_out(sent: Sequence[tuple[Command, bytes]]) -> tuple[list[Exchange], bytearray]:
    """Return related requests, each of one credit, and the buffer they lie in, without headers."""
    exchanges, buffer = [], bytearray(LENGTH_BYTES)
    for command, body in sent:
        buffer += bytes(-(len(buffer) - LENGTH_BYTES) % _ALIGNMENT)
        exchange = Exchange(command, charge=1)
        exchange.offset = len(buffer)
        exchanges.append(exchange)
        buffer += bytes(HEADER_BYTES) + body
    return exchanges, buffer


def pack_headers(
    exchanges: Sequence[Exchange],
    buffer: bytearray,
    *,
    session_id: int,
    tree_id: int,
    multi_credit: bool,
    more_credits: int,
) -> None:
    """Write the headers of requests that have their message ids.

    As many credits are asked for as they cost, and ``more_credits`` with the last.
    """
    for exchange, following in zip_longest(exchanges, exchanges[1:]):
        pack_header(
            buffer,
            exchange.offset,
            exchange.command,
            message_id=exchange.message_id,
            session_id=session_id,
            tree_id=tree_id,
            charge=exchange.charge if multi_credit else 0,
            credits_wanted=exchange.charge + (0 if following else more_credits),
            following=following.offset - exchange.offset if following else 0,
            related=exchange is not exchanges[0],
        )
