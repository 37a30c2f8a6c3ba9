"""Signing and encrypting SMB 3 messages, without moving their bytes more than once.

A frame is what goes over TCP: four bytes of length, and then a signed message,
or a transform header and an encrypted one. Knows keys and bytes, no sockets.
MS-SMB2 3.1.4.1 (signing), 3.1.4.3 (encrypting), 2.2.41 (transform header).
"""

from __future__ import annotations

import hmac
import os
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import algorithms
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM
from cryptography.hazmat.primitives.cmac import CMAC

from app.storage.smb_header import FLAGS, MESSAGE_ID, SIGNATURE, STATUS, chain

#: Room before a message in the buffer it is built in: the frame's length.
LENGTH_BYTES = 4

_SIGNED = 0x8
_NO_SIGNATURE = bytes(16)
_STATUS_PENDING = (0x103).to_bytes(4, "little")

#: MS-SMB2 2.2.41: identifier, signature, nonce, size, reserved, flags, session.
_TRANSFORM = struct.Struct("<4s16s16sIHHQ")
_TRANSFORM_ID = b"\xfdSMB"
_ENCRYPTED = 1
_TAG_BYTES = 16

_RESPONSE = 1  #: in the nonce of a GMAC signature


class BadSeal(Exception):
    """A message that should be signed or encrypted by the server is not, or wrongly."""


class Seal(ABC):
    """Protects the messages of one session. Not for several threads at once."""

    @abstractmethod
    def close(self, buffer: bytearray, length: int) -> memoryview:
        """Return the frame of the messages at LENGTH_BYTES of ``buffer``, ``length`` bytes long.

        The frame may be in ``buffer`` itself, and is valid until the next call.
        """

    @abstractmethod
    def open(self, content: memoryview) -> Iterator[memoryview]:
        """Yield the messages in a frame's content, which is changed; raises BadSeal."""


class Signing(Seal):
    """Signs with AES-128-GMAC where it was agreed (SMB 3.1.1), else with AES-128-CMAC."""

    def __init__(self, key: bytes, *, gmac: bool) -> None:
        self._key = key
        self._gmac = AESGCM(key) if gmac else None

    def close(self, buffer: bytearray, length: int) -> memoryview:
        """See Seal."""
        frame = memoryview(buffer)[: LENGTH_BYTES + length]
        frame[:LENGTH_BYTES] = length.to_bytes(LENGTH_BYTES, "big")
        for message in chain(frame[LENGTH_BYTES:]):
            flags = int.from_bytes(message[FLAGS], "little") | _SIGNED
            message[FLAGS] = flags.to_bytes(4, "little")
            message[SIGNATURE] = _NO_SIGNATURE
            message[SIGNATURE] = self._signature(message, 0)
        return frame

    def open(self, content: memoryview) -> Iterator[memoryview]:
        """See Seal. An interim answer (STATUS_PENDING) need not be signed."""
        for message in chain(content):
            if message[STATUS] != _STATUS_PENDING:
                if not int.from_bytes(message[FLAGS], "little") & _SIGNED:
                    raise BadSeal("a message is not signed")
                signature = bytes(message[SIGNATURE])
                message[SIGNATURE] = _NO_SIGNATURE
                if not hmac.compare_digest(signature, self._signature(message, _RESPONSE)):
                    raise BadSeal("a message has a wrong signature")
            yield message

    def _signature(self, message: memoryview, role: int) -> bytes:
        if self._gmac is not None:
            nonce = bytes(message[MESSAGE_ID]) + role.to_bytes(4, "little")
            return self._gmac.encrypt(nonce, b"", message)
        cmac = CMAC(algorithms.AES(self._key))
        cmac.update(bytes(message))
        return cmac.finalize()


class Encryption(Seal):
    """Encrypts with AES-GCM or AES-CCM, which also authenticates; the keys tell 128 from 256."""

    def __init__(self, session_id: int, ours: bytes, theirs: bytes, *, gcm: bool) -> None:
        self._session_id = session_id
        cipher = AESGCM if gcm else AESCCM
        self._ours, self._theirs = cipher(ours), cipher(theirs)
        self._nonce_bytes = 12 if gcm else 11
        self._out = bytearray()

    def close(self, buffer: bytearray, length: int) -> memoryview:
        """See Seal."""
        start = LENGTH_BYTES + _TRANSFORM.size
        if len(self._out) < start + length + _TAG_BYTES:
            self._out = bytearray(start + length + _TAG_BYTES)
        out = memoryview(self._out)
        nonce = os.urandom(self._nonce_bytes)
        fields = (nonce.ljust(16, b"\0"), length, 0, _ENCRYPTED, self._session_id)
        _TRANSFORM.pack_into(out, LENGTH_BYTES, _TRANSFORM_ID, b"", *fields)
        sealed = out[start : start + length + _TAG_BYTES]
        message = memoryview(buffer)[LENGTH_BYTES : LENGTH_BYTES + length]
        self._ours.encrypt_into(nonce, message, bytes(out[LENGTH_BYTES + 20 : start]), sealed)
        out[LENGTH_BYTES + 4 : LENGTH_BYTES + 20] = sealed[length:]
        out[:LENGTH_BYTES] = (_TRANSFORM.size + length).to_bytes(LENGTH_BYTES, "big")
        return out[: start + length]

    def open(self, content: memoryview) -> Iterator[memoryview]:
        """See Seal."""
        if len(content) < _TRANSFORM.size or content[:4] != _TRANSFORM_ID:
            raise BadSeal("a message is not encrypted")
        _, tag, nonce, _, _, _, session_id = _TRANSFORM.unpack_from(content)
        if session_id != self._session_id:
            raise BadSeal("a message is of another session")
        associated = bytes(content[20 : _TRANSFORM.size])
        sealed = b"".join((content[_TRANSFORM.size :], tag))
        try:
            opened = self._theirs.decrypt(nonce[: self._nonce_bytes], sealed, associated)
        except InvalidTag:
            raise BadSeal("a message cannot be decrypted") from None
        yield from chain(memoryview(opened))
