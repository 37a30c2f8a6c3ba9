"""SMB: everything is signed or encrypted, and what comes unprotected is refused."""

from __future__ import annotations

import os
import random

import pytest

from app.storage import smb_header
from app.storage.smb_seal import LENGTH_BYTES, BadSeal, Encryption, Signing

MIB = 1 << 20

#: Server's options → what smbstatus must say of a session: dialect, encryption, signing.
AGREEMENTS = {
    "3.1.1, encrypted": ({}, {}, ("SMB3_11", "AES-128-GCM", None)),
    "3.1.1, signed": ({}, {"encryption": "off"}, ("SMB3_11", "-", "AES-128-GMAC")),
    "3.1.1, signed as before 2021": (
        {"server_smb3_signing_algorithms": "AES-128-CMAC"},
        {"encryption": "off"},
        ("SMB3_11", "-", "AES-128-CMAC"),
    ),
    "3.1.1, encrypted by AES-256-GCM": (
        {"server_smb3_encryption_algorithms": "AES-256-GCM"},
        {},
        ("SMB3_11", "AES-256-GCM", None),
    ),
    "3.1.1, encrypted by AES-128-CCM": (
        {"server_smb3_encryption_algorithms": "AES-128-CCM"},
        {},
        ("SMB3_11", "AES-128-CCM", None),
    ),
    "3.1.1, encrypted by AES-256-CCM": (
        {"server_smb3_encryption_algorithms": "AES-256-CCM"},
        {},
        ("SMB3_11", "AES-256-CCM", None),
    ),
    "3.0.2, encrypted": (
        {"server_max_protocol": "SMB3_02"},
        {},
        ("SMB3_02", "AES-128-CCM", None),
    ),
    "3.0, signed": (
        {"server_max_protocol": "SMB3_00"},
        {"encryption": "off"},
        ("SMB3_00", "-", "AES-128-CMAC"),
    ),
    "the server insists": (
        {"server_smb_encrypt": "required"},
        {"encryption": "off"},
        ("SMB3_11", "AES-128-GCM", None),
    ),
    "the server cannot": ({"server_smb_encrypt": "off"}, {}, ("SMB3_11", "-", "AES-128-GMAC")),
}


@pytest.mark.parametrize("agreement", AGREEMENTS)
def test_whatever_is_agreed_protects_and_works(own_samba, smb_backend, agreement):
    options, target, (dialect, encryption, signing) = AGREEMENTS[agreement]
    own_samba.set_global(**options)
    backend = smb_backend(own_samba, "own", **target)
    content = random.randbytes(3 * MIB + 5)
    staged = backend.filled(content)
    assert backend.read(backend.publish(staged)) == content
    sessions = own_samba.sessions()
    assert sessions
    for session in sessions:
        assert session.dialect == dialect
        assert session.encryption in {encryption, f"partial({encryption})"}
        assert signing is None or session.signing == signing
    backend.close()


def test_a_share_that_must_be_encrypted_is(own_samba, smb_backend):
    """The server says so when the share is connected, after the login."""
    own_samba.add_share("secret", own_samba.root, smb_encrypt="required")
    backend = smb_backend(own_samba, "own", share="secret", encryption="off")
    staged = backend.filled(b"content")
    assert backend.read(backend.publish(staged)) == b"content"
    backend.close()


SEALS = {
    "GMAC": lambda: Signing(b"k" * 16, gmac=True),
    "CMAC": lambda: Signing(b"k" * 16, gmac=False),
    "GCM": lambda: Encryption(7, b"k" * 16, b"k" * 16, gcm=True),
    "CCM": lambda: Encryption(7, b"k" * 16, b"k" * 16, gcm=False),
}


def message(body: bytes = b"the body of a message") -> bytearray:
    """Return a message in a buffer, with room for its length before it."""
    buffer = bytearray(LENGTH_BYTES + smb_header.HEADER_BYTES) + body
    smb_header.pack_header(
        buffer,
        LENGTH_BYTES,
        9,
        message_id=5,
        session_id=7,
        tree_id=3,
        charge=1,
        credits_wanted=1,
    )
    return buffer


def sealed(seal, data: bytes = b"") -> bytearray:
    """Return the content of a frame."""
    frame = b"".join(seal.close(message(), memoryview(data)))
    assert int.from_bytes(frame[:LENGTH_BYTES], "big") == len(frame) - LENGTH_BYTES
    return bytearray(frame[LENGTH_BYTES:])


@pytest.mark.parametrize("name", ["GCM", "CCM"])
def test_what_was_encrypted_can_be_read_again_and_not_before(name):
    seal = SEALS[name]()
    content = sealed(seal)
    assert b"the body" not in content
    [opened] = seal.open(memoryview(content))
    assert opened == message()[LENGTH_BYTES:]


@pytest.mark.parametrize("name", ["GCM", "CCM"])
@pytest.mark.parametrize("data", [b"", b"what is written"])
def test_no_nonce_is_used_twice(name, data):
    seal = SEALS[name]()
    nonces = {bytes(sealed(seal, data)[20:36]) for _ in range(1000)}
    assert len(nonces) == 1000


@pytest.mark.parametrize("name", SEALS)
@pytest.mark.parametrize("length", [1, 15, 16, 100_003])
def test_data_behind_a_message_are_protected_as_if_they_were_in_it(monkeypatch, name, length):
    """They are not copied: what the server gets must be the same all the same."""
    monkeypatch.setattr(os, "urandom", lambda count: b"n" * count)
    data = random.randbytes(length)
    whole = message(b"the head" + data)
    in_one = b"".join(SEALS[name]().close(whole, memoryview(b"")))
    in_two = b"".join(SEALS[name]().close(message(b"the head"), memoryview(data)))
    assert in_two == in_one


@pytest.mark.parametrize("name", SEALS)
@pytest.mark.parametrize("bit", range(0, 64 * 8, 7))
def test_a_message_that_was_changed_on_its_way_is_refused(name, bit):
    """One bit of it, in what is not the identifier: that is looked at anyway."""
    seal = SEALS[name]()
    content = sealed(seal)
    if name in {"GMAC", "CMAC"}:
        # As the server's own would be, whose signature says that it is an answer.
        seal._signature, plain = lambda view, _: plain(view, 0), seal._signature
    content[4 + bit // 8] ^= 1 << bit % 8
    with pytest.raises((BadSeal, ValueError)):
        list(seal.open(memoryview(content)))


@pytest.mark.parametrize("name", SEALS)
def test_a_message_without_protection_is_refused(name):
    with pytest.raises((BadSeal, ValueError)):
        list(SEALS[name]().open(memoryview(message()[LENGTH_BYTES:])))


@pytest.mark.parametrize("name", SEALS)
@pytest.mark.parametrize("length", [0, 3, 16, 51, 52, 63, 64, 200])
def test_rubbish_is_refused(name, length):
    with pytest.raises((BadSeal, ValueError)):
        list(SEALS[name]().open(memoryview(bytearray(os.urandom(length)))))


def test_a_message_of_another_session_is_refused():
    content = sealed(Encryption(8, b"k" * 16, b"k" * 16, gcm=True))
    with pytest.raises(BadSeal, match="another session"):
        list(SEALS["GCM"]().open(memoryview(content)))
