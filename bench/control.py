"""The control plane: creating a very large upload, its status, its tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.loads import GIB, MIB, Durability
from bench.peers.longhaul import Server, longhaul
from bench.stats import Spread

#: 20,972 parts of 50 MiB.
_UPLOAD_BYTES = 1024 * GIB
_PART_BYTES = 50 * MIB


@dataclass(frozen=True, slots=True)
class ControlRow:
    """How long a call of the native API took, over all rounds, and how large its answer is."""

    call: str
    seconds: Spread
    answer_bytes: int


def measure_control_plane(directory: Path, rounds: int) -> list[ControlRow]:
    """Create 1 TiB uploads and ask for their status and tokens, once a round.

    The file is sparse. The disk need not have room for it.
    """
    directory.mkdir()
    calls: dict[str, list[tuple[float, int]]] = {}
    with longhaul(
        directory, Durability.STRICT, _PART_BYTES, more_env={"CHECK_FREE_DISK": "off"}
    ) as server:
        server.call("GET", "/health")
        for _ in range(rounds):
            for name, seconds, size in _one_round(server):
                calls.setdefault(name, []).append((seconds, size))
    return [
        ControlRow(name, Spread.of(seconds for seconds, _ in found), found[0][1])
        for name, found in calls.items()
    ]


def _one_round(server: Server) -> list[tuple[str, float, int]]:
    document = {"filename": "bench/huge.bin", "total_size": _UPLOAD_BYTES}
    created = server.call("POST", "/upload/init", document)
    part_count = len(created.value["parts"])
    upload = f"/upload/{created.value['file_id']}"
    status = server.call("GET", f"{upload}/status?include_parts=true")
    tokens = server.call("GET", f"{upload}/tokens")
    cancelled = server.call("DELETE", upload)
    answers = {
        f"create 1 TiB ({part_count:,} parts with tokens)": created,
        "its status, with parts": status,
        "its pending parts' tokens": tokens,
        "cancel it": cancelled,
    }
    return [(name, answer.seconds, answer.body_bytes) for name, answer in answers.items()]
