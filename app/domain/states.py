"""The life of an upload: its states and the only transitions between them.

Everything that decides whether a state may follow another is in this file. The
ledger carries a transition out by compare-and-set; it asks ``check`` first.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class State(StrEnum):
    """State of an upload, as stored in the ledger."""

    OPEN = "open"
    FINALIZING = "finalizing"
    COMPLETE = "complete"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    DELETED = "deleted"


#: Back to OPEN leads one way: the storage has lost parts, whose bits are
#: cleared in the same transaction.
TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.OPEN: frozenset({State.FINALIZING, State.CANCELLED, State.EXPIRED}),
    State.FINALIZING: frozenset({State.COMPLETE, State.FAILED, State.OPEN}),
    State.FAILED: frozenset({State.FINALIZING, State.EXPIRED, State.CANCELLED, State.OPEN}),
    State.COMPLETE: frozenset({State.DELETED}),
    State.CANCELLED: frozenset(),
    State.EXPIRED: frozenset(),
    State.DELETED: frozenset(),
}

#: States in which the client's bytes are of no more use: staging may go.
GONE = frozenset({State.CANCELLED, State.EXPIRED, State.DELETED})


def check(current: State, following: State) -> None:
    """Raise ValueError unless ``following`` may come after ``current``."""
    if following not in TRANSITIONS[current]:
        raise ValueError(f"no transition from {current} to {following}")


def mermaid() -> str:
    """Return the transition table as a Mermaid state diagram (for the docs)."""
    lines = ["stateDiagram-v2", "    [*] --> open"]
    for state, followers in TRANSITIONS.items():
        lines += [f"    {state} --> {follower}" for follower in sorted(followers)]
        if not followers:
            lines.append(f"    {state} --> [*]")
    return "\n".join(lines) + "\n"
