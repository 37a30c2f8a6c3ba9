"""Who is alive on this node: proven by a lock that dies with its process."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from threading import Barrier, Thread

import pytest

from app.domain.clock import Clock
from app.ledger.liveness import ProcessLife, boot_clock_ms, boot_id
from tests.harness.databases import Database
from tests.harness.peer import Peer


@pytest.fixture
def run_directory(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def peer(run_directory: Path, tmp_path: Path, start_peer: Callable[[Database], Peer]) -> Peer:
    """Another process that lives in the same run directory."""
    return start_peer(Database(f"sqlite:///{tmp_path}/unused.db", run_directory))


def test_a_process_keeps_its_name(run_directory: Path) -> None:
    life = ProcessLife(run_directory)
    assert life.owner == life.owner
    assert life.owner != ProcessLife(run_directory).owner


def test_a_living_process_is_not_dead(run_directory: Path, peer: Peer) -> None:
    life = ProcessLife(run_directory)
    assert not life.is_dead(peer.do("come_alive"))
    assert life.dead() == []


def test_a_frozen_process_is_not_dead(run_directory: Path, peer: Peer) -> None:
    owner = peer.do("come_alive")
    peer.freeze()
    assert not ProcessLife(run_directory).is_dead(owner)


def test_a_killed_process_is_dead_at_once(run_directory: Path, peer: Peer) -> None:
    owner = peer.do("come_alive")
    peer.kill()
    life = ProcessLife(run_directory)
    assert life.is_dead(owner)
    assert life.dead() == [owner]


def test_a_buried_process_is_found_no_more(run_directory: Path, peer: Peer) -> None:
    owner = peer.do("come_alive")
    peer.kill()
    life = ProcessLife(run_directory)
    life.bury(owner)
    life.bury(owner)  # somebody else was at it too
    assert life.dead() == []


def test_a_process_never_thinks_itself_dead(run_directory: Path) -> None:
    life = ProcessLife(run_directory)
    assert not life.is_dead(life.owner)
    assert life.dead() == []


def test_a_process_of_another_node_is_not_known_to_be_dead(run_directory: Path) -> None:
    assert not ProcessLife(run_directory).is_dead("f" * 32)


def test_a_subprocess_does_not_keep_its_parent_alive(run_directory: Path, peer: Peer) -> None:
    owner = peer.do("come_alive")
    child_pid = peer.do("start_child")
    peer.kill()
    try:
        assert ProcessLife(run_directory).is_dead(owner)
    finally:
        os.kill(child_pid, 9)


def test_a_forked_process_is_somebody_else(run_directory: Path, peer: Peer) -> None:
    parent = peer.do("come_alive")
    child, child_pid = peer.do("fork_and_come_alive")
    life = ProcessLife(run_directory)
    try:
        assert child != parent
        assert not life.is_dead(child)
        peer.kill()
        assert life.is_dead(parent)
        assert not life.is_dead(child)
    finally:
        os.kill(child_pid, 9)


def test_threads_that_begin_together_have_one_name(run_directory: Path) -> None:
    life, barrier, names = ProcessLife(run_directory), Barrier(8), []

    def begin() -> None:
        barrier.wait()
        names.append(life.owner)

    threads = [Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(names) == {life.owner}
    assert not ProcessLife(run_directory).is_dead(life.owner)


def test_run_directories_are_closed_to_others(run_directory: Path) -> None:
    owner = ProcessLife(run_directory).owner
    assert run_directory.stat().st_mode & 0o777 == 0o700
    assert (run_directory / f"{owner}.alive").stat().st_mode & 0o777 == 0o600


def test_the_lease_clock_is_the_clock_of_deadlines() -> None:
    assert abs(boot_clock_ms() - Clock().monotonic() * 1000) < 1000


def test_all_processes_of_a_boot_agree_on_its_id(peer: Peer) -> None:
    assert peer.do("boot_id") == boot_id() != ""
