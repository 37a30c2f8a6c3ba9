"""The life of an upload: these transitions and no others."""

from __future__ import annotations

from itertools import product

import pytest

from app.domain.states import GONE, TRANSITIONS, State, check, mermaid

#: Everything that may follow, said a second time on purpose.
ALLOWED = {
    ("open", "finalizing"),
    ("open", "cancelled"),
    ("open", "expired"),
    ("finalizing", "complete"),
    ("finalizing", "failed"),
    ("finalizing", "open"),
    ("failed", "finalizing"),
    ("failed", "expired"),
    ("failed", "cancelled"),
    ("failed", "open"),
    ("complete", "deleted"),
}

ENDS = {"cancelled", "expired", "deleted"}


@pytest.mark.parametrize(("current", "following"), list(product(State, State)))
def test_a_state_follows_another_only_where_the_table_says_so(current, following):
    if (current.value, following.value) in ALLOWED:
        check(current, following)
    else:
        with pytest.raises(ValueError, match=f"from {current} to {following}"):
            check(current, following)


def test_every_state_is_in_the_table():
    assert set(TRANSITIONS) == set(State)
    assert {state.value for state in State} == {
        "open",
        "finalizing",
        "complete",
        "failed",
        "cancelled",
        "expired",
        "deleted",
    }


def test_nothing_follows_the_ends():
    assert {state.value for state, followers in TRANSITIONS.items() if not followers} == ENDS


def test_only_the_ends_give_up_the_client_s_bytes():
    assert {state.value for state in GONE} == ENDS


def test_back_to_open_leads_only_from_where_a_storage_can_report_lost_parts():
    assert {state.value for state, followers in TRANSITIONS.items() if State.OPEN in followers} == {
        "finalizing",
        "failed",
    }


def test_a_complete_upload_is_only_left_by_going():
    assert TRANSITIONS[State.COMPLETE] <= GONE


@pytest.mark.parametrize("state", State)
def test_every_state_is_reached_from_open_and_reaches_an_end(state):
    def reachable(start):
        found, waiting = set(), [start]
        while waiting:
            current = waiting.pop()
            if current not in found:
                found.add(current)
                waiting += TRANSITIONS[current]
        return found

    assert state in reachable(State.OPEN)
    assert reachable(state) & GONE


def test_states_are_stored_as_their_names():
    assert f"{State.OPEN}" == State.OPEN == "open"
    assert State("finalizing") is State.FINALIZING


def test_the_diagram_shows_every_transition_the_beginning_and_the_ends():
    lines = mermaid().splitlines()
    assert lines[0] == "stateDiagram-v2"
    arrows = {tuple(line.strip().split(" --> ")) for line in lines[1:]}
    assert arrows == ALLOWED | {("[*]", "open")} | {(end, "[*]") for end in ENDS}
    assert len(lines) == 1 + len(arrows)
