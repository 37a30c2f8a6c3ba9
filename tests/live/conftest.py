"""Servers that gunicorn itself protects with TLS."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.missing import lacking
from tests.live.wire import TlsServer


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A fresh certificate for localhost, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        lacking("openssl is not installed (Debian: apt-get install openssl)")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(
        [openssl, "req", "-x509", "-days", "2", *curve, *names, *files],
        check=True,
        capture_output=True,
    )
    return certificate, key


@pytest.fixture
def tls_server(
    tmp_path: Path, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> Iterator[TlsServer]:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate[0]))
    server = TlsServer(tmp_path, *certificate)
    with contextlib.closing(server):  # also when it does not start
        server.start()
        yield server
