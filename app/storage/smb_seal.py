"""Signing and encrypting SMB 3 messages; data to be written stay where they are.

A frame is what goes over TCP: four bytes of length, and then a signed message,
or a transform header and an encrypted one. Knows keys and bytes, no sockets.
MS-SMB2 3.1.4.1 (signing), 3.1.4.3 (encrypting), 2.2.41 (transform header).
"""

from __future__ import annotations

import hmac
import os
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
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
_GCM_NONCE_BYTES, _CCM_NONCE_BYTES = 12, 11

_RESPONSE = 1  #: in the nonce of a GMAC signature
_NOTHING = memoryview(b"")


class BadSeal(Exception):
    """A message that should be signed or encrypted by the server is not, or wrongly."""


class Seal(ABC):
    """Protects the messages of one session. Not for several threads at once."""

    @abstractmethod
    def close(self, buffer: bytearray, data: memoryview) -> Sequence[memoryview]:
        """Return the frame, in pieces, of the messages that begin at LENGTH_BYTES of ``buffer``.

        ``data`` are the end of the only message where they are not empty. The
        pieces may be ``buffer`` and ``data`` themselves, and are valid until the
        next call.
        """

    @abstractmethod
    def open(self, content: memoryview) -> Iterator[memoryview]:
        """Yield the messages in a frame's content, which is changed; raises BadSeal."""


class Signing(Seal):
    """Signs with AES-128-GMAC where it was agreed (SMB 3.1.1), else with AES-128-CMAC."""

    def __init__(self, key: bytes, *, gmac: bool) -> None:
        self._key = key
        self._gmac = AESGCM(key) if gmac else None

    def close(self, buffer: bytearray, data: memoryview) -> Sequence[memoryview]:
        """See Seal."""
        frame = memoryview(buffer)
        length = len(buffer) - LENGTH_BYTES + len(data)
        frame[:LENGTH_BYTES] = length.to_bytes(LENGTH_BYTES, "big")
        for message in chain(frame[LENGTH_BYTES:]):
            flags = int.from_bytes(message[FLAGS], "little") | _SIGNED
            message[FLAGS] = flags.to_bytes(4, "little")
            message[SIGNATURE] = _NO_SIGNATURE
            message[SIGNATURE] = self._signature(message, 0, data)
        return (frame, data) if data else (frame,)

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

    def _signature(self, message: memoryview, role: int, data: memoryview = _NOTHING) -> bytes:
        if self._gmac is None:
            cmac = CMAC(algorithms.AES(self._key))
            cmac.update(bytes(message))
            cmac.update(bytes(data))
            return cmac.finalize()
        nonce = bytes(message[MESSAGE_ID]) + role.to_bytes(4, "little")
        if not data:
            return self._gmac.encrypt(nonce, b"", message)
        gmac = Cipher(algorithms.AES(self._key), modes.GCM(nonce)).encryptor()
        gmac.authenticate_additional_data(message)
        gmac.authenticate_additional_data(data)
        gmac.finalize()
        return gmac.tag


class Encryption(Seal):
    """Encrypts with AES-GCM or AES-CCM, which also authenticates; the keys tell 128 from 256."""

    def __init__(self, session_id: int, ours: bytes, theirs: bytes, *, gcm: bool) -> None:
        self._session_id = session_id
        self._key = ours
        self._gcm = gcm
        cipher = AESGCM if gcm else AESCCM
        self._ours, self._theirs = cipher(ours), cipher(theirs)
        self._nonce_bytes = _GCM_NONCE_BYTES if gcm else _CCM_NONCE_BYTES
        self._out = bytearray()

    def close(self, buffer: bytearray, data: memoryview) -> Sequence[memoryview]:
        """See Seal."""
        head = memoryview(buffer)[LENGTH_BYTES:]
        start, length = LENGTH_BYTES + _TRANSFORM.size, len(head) + len(data)
        if len(self._out) < start + length + _TAG_BYTES:
            self._out = bytearray(start + length + _TAG_BYTES)
        out = memoryview(self._out)
        nonce = os.urandom(self._nonce_bytes)
        fields = (nonce.ljust(16, b"\0"), length, 0, _ENCRYPTED, self._session_id)
        _TRANSFORM.pack_into(out, LENGTH_BYTES, _TRANSFORM_ID, b"", *fields)
        associated = bytes(out[LENGTH_BYTES + 20 : start])
        sealed = out[start : start + length + _TAG_BYTES]
        out[LENGTH_BYTES + 4 : LENGTH_BYTES + 20] = self._encrypt(
            nonce, head, data, associated, sealed
        )
        out[:LENGTH_BYTES] = (_TRANSFORM.size + length).to_bytes(LENGTH_BYTES, "big")
        return (out[: start + length],)

    def _encrypt(
        self,
        nonce: bytes,
        head: memoryview,
        data: memoryview,
        associated: bytes,
        sealed: memoryview,
    ) -> bytes | memoryview:
        """Encrypt ``head`` and ``data`` into ``sealed``, with room for a tag; return the tag."""
        if data and self._gcm:
            gcm = Cipher(algorithms.AES(self._key), modes.GCM(nonce)).encryptor()
            gcm.authenticate_additional_data(associated)
            done = gcm.update_into(head, sealed)
            gcm.update_into(data, sealed[done:])
            gcm.finalize()
            return gcm.tag
        message = b"".join((head, data)) if data else head  # CCM wants it in one piece
        self._ours.encrypt_into(nonce, message, associated, sealed)
        return sealed[-_TAG_BYTES:]

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
