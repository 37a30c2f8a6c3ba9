"""SMB: a final name is claimed while a file is renamed to it: servers do it in two steps."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.errors import StorageUnavailable, TargetExists
from app.storage import keys, smb_claim, smb_files
from app.storage.smb_channel import Channel
from app.storage.smb_login import log_in
from app.storage.smb_names import share_path

PUBLISHERS = 8
#: Without claims one round in twenty has two winners on this server.
ROUNDS = 40
WAIT_SECONDS = 30


@pytest.fixture
def other(smb):
    """Another program's connection."""
    channel = Channel(log_in(smb.target(), WAIT_SECONDS), WAIT_SECONDS)
    yield channel
    channel.close()


@pytest.fixture
def meetings(monkeypatch):
    """An event: somebody has found a name claimed, and is about to ask again."""
    met = threading.Event()
    sleep = smb_claim.native_sleep

    def sleep_noticed(seconds):
        met.set()
        sleep(seconds)

    monkeypatch.setattr(smb_claim, "native_sleep", sleep_noticed)
    return met


def claim_of(smb, staged):
    target = share_path((*smb.path, *keys.split_final_key(staged.target_key)))
    return (*smb.path, ".staging", keys.claim_name(target))


def test_of_many_that_rename_over_connections_of_their_own_never_two_get_a_name(smb):
    storages = [smb.opened() for _ in range(PUBLISHERS)]

    def publish(storage, staged, start):
        start.wait()
        try:
            return bool(smb.publish(staged, storage=storage))
        except TargetExists:
            return False

    for _ in range(ROUNDS):
        uploads = [smb.filled(b"x", key="files/wanted") for _ in storages]
        starts = [threading.Barrier(PUBLISHERS)] * PUBLISHERS
        with ThreadPoolExecutor(PUBLISHERS) as pool:
            assert list(pool.map(publish, storages, uploads, starts)).count(True) == 1
        smb.storage.delete("files/wanted")
        for upload in uploads:
            smb.storage.discard(upload)


def test_a_name_that_somebody_has_claimed_is_waited_for(smb, other, meetings):
    staged = smb.filled(b"content")
    claim = smb_files.open_exclusively(other, claim_of(smb, staged))
    with ThreadPoolExecutor(1) as pool:
        published = pool.submit(smb.publish, staged)
        assert meetings.wait(WAIT_SECONDS)
        assert smb.leftovers() != [staged.target_key]
        claim.close()
        assert published.result(WAIT_SECONDS) == staged.target_key
    assert smb.leftovers() == [staged.target_key]
    smb.storage.delete(staged.target_key)


def test_a_claim_ends_with_its_connection(smb, other, meetings):
    staged = smb.filled(b"content")
    smb_files.open_exclusively(other, claim_of(smb, staged))
    with ThreadPoolExecutor(1) as pool:
        published = pool.submit(smb.publish, staged)
        assert meetings.wait(WAIT_SECONDS)
        other.close()
        assert published.result(WAIT_SECONDS) == staged.target_key
    smb.storage.delete(staged.target_key)


def test_who_waits_for_a_claim_in_vain_is_told_and_may_try_again(smb, other, monkeypatch):
    monkeypatch.setattr(smb_claim, "_WAIT_SECONDS", 0.1)
    staged = smb.filled(b"content")
    with smb_files.open_exclusively(other, claim_of(smb, staged)):
        with pytest.raises(StorageUnavailable, match="Another program keeps a file"):
            smb.publish(staged)
    assert smb.publish(staged) == staged.target_key
    smb.storage.delete(staged.target_key)


def test_a_claim_that_a_server_left_when_it_lost_its_power_is_no_claim(smb):
    staged = smb.filled(b"content")
    smb.root.joinpath(*claim_of(smb, staged)[2:]).touch()
    assert smb.publish(staged) == staged.target_key
    assert smb.leftovers() == [staged.target_key]  # and it is gone
    smb.storage.delete(staged.target_key)


def test_names_that_differ_in_case_have_one_claim():
    assert keys.claim_name("Files\\Ä") == keys.claim_name("files\\ä")
    assert keys.claim_name("files\\a") != keys.claim_name("files\\b")
