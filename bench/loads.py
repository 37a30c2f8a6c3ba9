"""What is sent: how large the bodies are, over how many connections, and how many.

A load is a plain value. It knows nothing of receivers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

#: Timed bytes of one cell at scale 1: about 2 s at 0.8 GB/s for large bodies.
#: Small bodies cost more a byte, so fewer of them take as long. Both stay under
#: the kernel's threshold for background writeback (10% of memory) on 16 GiB.
LARGE_CELL_BYTES = 1600 * MIB
SMALL_CELL_BYTES = 512 * MIB

#: Below this a body counts as small: its request costs about as much as its bytes.
SMALL_BODY_BYTES = 8 * MIB


class Durability(StrEnum):
    """What a receiver has done with the bytes when it answers.

    ``RELAXED``: written, in the page cache. ``STRICT``: synced to the disk.
    ``NONE``: thrown away; only the client's own ceiling is measured so.
    ``READ``: nothing is stored, a file is sent to the client.
    """

    RELAXED = "relaxed"
    STRICT = "strict"
    NONE = "none"
    READ = "read"


@dataclass(frozen=True, slots=True)
class Load:
    """``count`` timed bodies of ``body_bytes``, shared by ``connections`` connections.

    Before the clock starts, every connection sends one body more (warm-up).
    """

    body_bytes: int
    connections: int
    count: int

    @property
    def label(self) -> str:
        """Return the load as the tables name it: ``50 MiB x 4``."""
        return f"{self.body_bytes // MIB} MiB x {self.connections}"

    @property
    def total_count(self) -> int:
        """Return the number of bodies with the warm-up."""
        return self.count + self.connections

    @property
    def timed_bytes(self) -> int:
        return self.count * self.body_bytes


def make_load(body_mib: int, connections: int, scale: float = 1.0) -> Load:
    """Return the load of ``body_mib`` MiB bodies that moves the usual bytes times ``scale``.

    Never fewer than two bodies a connection.
    """
    body_bytes = body_mib * MIB
    cell_bytes = SMALL_CELL_BYTES if body_bytes < SMALL_BODY_BYTES else LARGE_CELL_BYTES
    count = round(cell_bytes * scale / body_bytes)
    return Load(body_bytes, connections, max(count, 2 * connections))


def parse_loads(texts: Iterable[str], scale: float) -> list[Load]:
    """Return the loads that texts such as ``50x4`` (MiB x connections) name.

    Raises ValueError on anything else.
    """
    loads = []
    for text in texts:
        body, separator, connections = text.partition("x")
        if not separator or int(body) < 1 or int(connections) < 1:
            raise ValueError(f"{text!r} is not a load; expected MiB x connections, as in 50x4")
        loads.append(make_load(int(body), int(connections), scale))
    return loads


DEFAULT_LOADS: Sequence[str] = ("50x1", "50x4", "1x1", "1x4")

#: For receivers that are there for comparison only: a run is to end within ten minutes or so.
BRIEF_LOADS: Sequence[str] = ("50x4", "1x4")

#: What tus clients send: a large file at once, or chunks as browsers are often told to.
TUS_LOADS: Sequence[str] = ("50x1", "50x4", "5x1", "5x4")

#: Files that are read back.
READ_LOADS: Sequence[str] = ("50x1", "50x4", "500x1", "500x4")

#: What Resumable.js clients send: chunks of the default size, and of a usual larger one.
RESUMABLE_LOADS: Sequence[str] = ("10x4", "1x4")
