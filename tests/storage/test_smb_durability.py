"""SMB: what the server is told to bring to its disk, and when.

Whether it obeys is its own affair (``strict sync``). Requests are noted on their way
to a real server.
"""

from __future__ import annotations

import random

import pytest

from app.storage.smb_channel import Channel
from app.storage.smb_files import ShareFile

MIB = 1 << 20


@pytest.fixture
def sent(monkeypatch):
    """Names of the requests that have been sent since; a rename is one of its own."""
    names = []
    really_send, really_rename = Channel._try_send, ShareFile.rename

    def send(channel, exchanges, *more):
        names.extend(exchange.command.name for exchange in exchanges)
        return really_send(channel, exchanges, *more)

    def rename(file, target):
        names.append("rename")
        return really_rename(file, target)

    monkeypatch.setattr(Channel, "_try_send", send)
    monkeypatch.setattr(ShareFile, "rename", rename)
    return names


@pytest.mark.parametrize("durable", [True, False])
def test_a_part_is_flushed_when_all_of_it_is_written_if_it_is_to_be_durable(smb, sent, durable):
    staged = smb.staged(3 * MIB)
    with smb.storage.writer(staged, 0, 0, 3 * MIB) as writer:
        writer.write(memoryview(random.randbytes(3 * MIB)))
        del sent[:]
        writer.commit(durable=durable)
    assert sent[:-2] == ["FLUSH"] * durable
    assert sent[-2:] == ["QUERY_INFO", "CLOSE"]
    smb.storage.discard(staged)


def test_a_file_is_flushed_before_it_gets_its_final_name_and_its_folders_after_that(smb, sent):
    """Otherwise a server that loses its power may have a file that looks whole and is not."""
    staged = smb.filled(random.randbytes(3 * MIB), "known/movie.mp4")
    smb.publish(smb.filled(b"", "known/other.mp4"))
    del sent[:]
    smb.publish(staged)
    changes = [name for name in sent if name in {"FLUSH", "SET_INFO", "WRITE", "rename"}]
    assert changes == ["FLUSH", "rename", "SET_INFO", *["FLUSH"] * 3]  # file, two folders
    for path in (smb.root / "known").iterdir():
        path.unlink()


def test_folders_that_are_made_for_a_file_are_flushed_before_it_is_in_them(smb, sent):
    staged = smb.filled(b"content", "new/below/movie.mp4")
    del sent[:]
    smb.publish(staged)
    last = len(sent) - 1 - sent[::-1].index("rename")
    made = [name for name in sent[sent.index("rename") : last] if name in {"CREATE", "FLUSH"}]
    folders = ["CREATE", "FLUSH"] * len((*smb.path, "new", "below"))
    assert made == [*folders, "CREATE"]  # the last claims the name
    smb.storage.delete(staged.target_key)
