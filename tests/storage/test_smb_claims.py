"""SMB: a final name is claimed while a file is renamed to it: servers do it in two steps."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.errors import TargetExists
from app.storage import keys, smb_claim, smb_files
from app.storage.smb_channel import Channel
from app.storage.smb_errors import Refused, Status
from app.storage.smb_login import log_in

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
    return (*smb.path, ".staging", keys.claim_name(keys.split_final_key(staged.target_key)))


@pytest.mark.parametrize("folder", ["files", "made anew"])
def test_of_many_that_rename_over_connections_of_their_own_never_two_get_a_name(smb, folder):
    storages = [smb.opened() for _ in range(PUBLISHERS)]
    key = f"{folder}/wanted"

    def publish(storage, staged, start):
        start.wait()
        try:
            return bool(smb.publish(staged, storage=storage))
        except TargetExists:
            return False

    for _ in range(ROUNDS):
        uploads = [smb.filled(b"x", key=key) for _ in storages]
        starts = [threading.Barrier(PUBLISHERS)] * PUBLISHERS
        with ThreadPoolExecutor(PUBLISHERS) as pool:
            assert list(pool.map(publish, storages, uploads, starts)).count(True) == 1
        smb.storage.delete(key)
        if folder != "files":
            (smb.root / folder).rmdir()
        for upload in uploads:
            smb.storage.discard(upload)


def test_claims_exclude_each_other(smb):
    """Whoever has one counts up, asks the server something, and counts down: nobody sees two."""
    staging = (*smb.path, ".staging", "0.claim")
    channels = [Channel(log_in(smb.target(), WAIT_SECONDS), WAIT_SECONDS) for _ in range(4)]
    inside, met = [], []

    def take(channel):
        for _ in range(100):
            while (claim := smb_claim._claimed(channel, staging)) is None:
                pass
            inside.append(channel)
            claim.standing()
            met.append(len(inside))
            inside.remove(channel)
            claim.close()

    with ThreadPoolExecutor(len(channels)) as pool:
        list(pool.map(take, channels))
    for channel in channels:
        channel.close()
    assert met == [1] * 100 * len(channels)


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


def test_who_waits_for_a_claim_in_vain_goes_on_without(smb, other, monkeypatch):
    """Its holder may be frozen, or have lost its power: the server may keep it open for hours."""
    monkeypatch.setattr(smb_claim, "_WAIT_SECONDS", 0.1)
    staged = smb.filled(b"content")
    with smb_files.open_exclusively(other, claim_of(smb, staged)):
        assert smb.publish(staged) == staged.target_key
        later = smb.filled(b"other", key=staged.target_key)
        with pytest.raises(TargetExists):
            smb.publish(later)
    smb.storage.delete(staged.target_key)
    smb.storage.discard(later)


def test_where_a_claim_cannot_be_made_a_file_is_published_all_the_same(smb, monkeypatch):
    """As on a share that is full to its last inode."""

    def full(channel, names):
        raise Refused(Status.DISK_FULL)

    staged = smb.filled(b"content")
    monkeypatch.setattr(smb_files, "open_exclusively", full)
    assert smb.publish(staged) == staged.target_key
    smb.storage.delete(staged.target_key)


def test_names_that_differ_in_case_have_one_claim_and_there_are_few():
    assert keys.claim_name(["Files", "Ä"]) == keys.claim_name(["files", "ä"])
    names = {keys.claim_name(["files", str(number)]) for number in range(1000)}
    assert names == {f"{digit}.claim" for digit in "0123456789abcdef"}
