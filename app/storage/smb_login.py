"""From the settings to a share that is connected: negotiate, log in, find the share.

The library smbprotocol does it, with pyspnego (NTLM, Kerberos); from there on
``smb_channel`` speaks for itself. The library expects to receive in a thread of
its own, which in a process that gevent has patched is a greenlet: bound to the
hub of the thread that made it, and dead in every other. So here it is led step
by step in the thread that calls, over a socket that gevent has not replaced.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from smbprotocol import Dialects, connection, session, tree
from smbprotocol.connection import Ciphers, SigningAlgorithms
from smbprotocol.exceptions import SMBAuthenticationError, SMBException, SMBResponseException
from smbprotocol.header import NtStatus

from app.errors import StorageUnavailable
from app.storage import smb_errors
from app.storage.smb_errors import LoginRefused
from app.storage.smb_seal import Encryption, Seal, Signing
from app.storage.smb_socket import connect

#: A server that cannot be reached is not waited for longer than this.
CONNECT_SECONDS = 10.0

#: Offered in this order. The last one keeps SMB 3.0 and 3.0.2 possible.
_CIPHERS = [Ciphers.AES_128_GCM, Ciphers.AES_256_GCM, Ciphers.AES_256_CCM, Ciphers.AES_128_CCM]
_SIGNATURES = [SigningAlgorithms.AES_GMAC, SigningAlgorithms.AES_CMAC]

# They would log in native threads, where logging's locks must not be touched.
# What they have to tell comes as exceptions.
for _name in ("connection", "open", "session", "transport", "tree"):
    logging.getLogger(f"smbprotocol.{_name}").disabled = True


@dataclass(frozen=True, slots=True)
class Target:
    """Where the share is and who uses it; ``encryption``: auto, required or off."""

    host: str
    port: int
    share: str
    user: str
    password: str = field(repr=False)
    encryption: str = "auto"


@dataclass(frozen=True, slots=True)
class Login:
    """A connected share: the socket, what was agreed, and where counting goes on.

    ``message_id`` is the next one; ``credits`` may be used before the first answer.
    """

    sock: socket.socket
    seal: Seal
    session_id: int
    tree_id: int
    message_id: int
    credits: int
    multi_credit: bool
    max_read_bytes: int
    max_write_bytes: int


class _Wire:
    """The library's transport, on a socket of ours; hands it one message at a time."""

    connected = True

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._message = b""

    def connect(self) -> None:
        """It is connected."""

    def close(self) -> None:
        """Be closed for the library: who made the socket closes it."""
        self.connected = False

    def send(self, message: Any) -> None:
        data = message if isinstance(message, bytes) else message.pack()
        self._sock.sendall(struct.pack(">I", len(data)) + data)

    def fetch(self) -> None:
        """Wait for the next message. Raises TimeoutError, ConnectionResetError."""
        (length,) = struct.unpack(">I", self._receive(4))
        self._message = self._receive(length)

    def recv(self, _timeout: float) -> bytes:
        """Return the message that was fetched, then nothing: the library stops receiving."""
        message, self._message = self._message, b""
        return message

    def _receive(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            more = self._sock.recv(length - len(data))
            if not more:
                raise ConnectionResetError("the server ended the connection")
            data += more
        return data


class _NoThread:
    """In the place of the library's receiving thread."""

    ident = None
    daemon = True

    def start(self) -> None: ...

    def join(self, timeout: float | None = None) -> None: ...


class _Negotiation(connection.Connection):  # type: ignore[misc]
    """The library's connection, receiving in the thread that waits for an answer."""

    # It makes both itself and goes on to use what it has made: ours instead.
    transport = property(lambda self: self._wire, lambda self, made: None)
    _t_worker = property(lambda self: _NoThread(), lambda self, made: None)

    def __init__(self, wire: _Wire, target: Target) -> None:
        self._wire = wire
        super().__init__(uuid.uuid4(), target.host, target.port, require_signing=True)

    def _process_message_thread(self) -> None: ...

    def receive(self, request: Any, wait: bool = True, *_: Any, **__: Any) -> Any:
        while request.response is None or _status_of(request) == NtStatus.STATUS_PENDING:
            self._wire.fetch()
            super()._process_message_thread()  # until ``recv`` has nothing more
            self._check_worker_running()  # raises what went wrong there
        return super().receive(request, wait, resolve_symlinks=False)


def _status_of(request: Any) -> int:
    status: int = request.response["status"].get_value()
    return status


def log_in(target: Target, timeout_seconds: float) -> Login:
    """Connect to a share. Blocks; for native threads.

    Raises StorageUnavailable with a message for the operator, LoginRefused where
    trying again may lock the account.
    """
    sock = connect(target.host, target.port, min(timeout_seconds, CONNECT_SECONDS))
    try:
        with _explained():
            return _negotiate(sock, target)
    except BaseException:
        sock.close()
        raise


def _negotiate(sock: socket.socket, target: Target) -> Login:
    ours = _Negotiation(_Wire(sock), target)
    ours.connect(preferred_encryption_algos=_CIPHERS, preferred_signing_algos=_SIGNATURES)
    if ours.dialect < Dialects.SMB_3_0_0:
        raise StorageUnavailable("The SMB server speaks no SMB 3: enable it there")
    encrypts = bool(ours.supports_encryption) and target.encryption != "off"
    if target.encryption == "required" and not encrypts:
        raise StorageUnavailable("The SMB server offers no encryption, which SMB_ENCRYPTION wants")
    user = session.Session(ours, target.user, target.password, require_encryption=encrypts)
    user.connect()
    shared = tree.TreeConnect(user, rf"\\{target.host}\{target.share}")
    shared.connect()
    window = ours.sequence_window
    return Login(
        sock=sock,
        seal=_seal(ours, user, encrypts or bool(user.encrypt_data) or bool(shared.encrypt_data)),
        session_id=user.session_id,
        tree_id=shared.tree_connect_id,
        message_id=window["low"],
        credits=window["high"] - window["low"],
        multi_credit=bool(ours.supports_multi_credit),
        max_read_bytes=ours.max_read_size,
        max_write_bytes=ours.max_write_size,
    )


def _seal(ours: Any, user: Any, encrypts: bool) -> Seal:
    if not encrypts:
        return Signing(
            user.signing_key, gmac=ours.signing_algorithm_id == SigningAlgorithms.AES_GMAC
        )
    gcm = ours.cipher_id in (Ciphers.AES_128_GCM, Ciphers.AES_256_GCM)
    return Encryption(user.session_id, user.encryption_key, user.decryption_key, gcm=gcm)


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except SMBResponseException as error:
        raise smb_errors.connect_error(error.status) from error
    except SMBAuthenticationError as error:
        raise LoginRefused(
            "Logging in to the SMB server failed: check SMB_USER, SMB_PASS and SMB_DOMAIN"
        ) from error
    except TimeoutError as error:
        raise StorageUnavailable(smb_errors.NOT_ANSWERING) from error
    except OSError as error:
        raise StorageUnavailable("The SMB server hangs up while connecting; try again") from error
    except (SMBException, ValueError, struct.error) as error:
        # There is no class of its own for this one.
        if "guest" in str(error):
            message = "The SMB server lets SMB_USER in as a guest only: check SMB_USER and SMB_PASS"
            raise LoginRefused(message) from error
        raise StorageUnavailable(
            "No agreement with the SMB server on how to talk; the log has the reason"
        ) from error
