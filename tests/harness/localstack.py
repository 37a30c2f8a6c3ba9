"""A real S3 server: LocalStack, whose errors and checksums are those of AWS.

It lives in an environment of its own, because it wants older libraries than ours:
``make localstack``.
"""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from app.storage.s3_client import S3Place
from tests.harness.s3 import ENDING_WITH_US, S3Server
from tests.harness.server import ROOT

PYTHON = ROOT / ".localstack/bin/python"

_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

#: What runs it. Its folder of objects is written into its code, and two servers that
#: share the folder take each other's parts away.
_PROGRAM = """
import os
from localstack.services.s3 import provider
provider.DEFAULT_S3_TMP_DIR = os.environ["OBJECTS"]
from localstack.runtime.main import main
main()
"""


class LocalStack(S3Server):
    """LocalStack with nothing but S3. What it stores it forgets when it ends.

    It is talked to over https, with checksums in trailers, as AWS is.
    """

    access_key, secret_key = "test", "test"
    checks_keys = False
    conditional_complete = True
    completes_subsets = True
    # Who comes second empties the file: 6 of 40 uploads that 8 clients completed at once.
    completes_once = False
    checks_checksums = True
    tells_of_aborts_meanwhile = False

    def __init__(self) -> None:
        super().__init__()
        self._directory = Path(tempfile.mkdtemp(prefix="longhaul-localstack-", dir=_MEMORY))
        self._objects = Path(tempfile.mkdtemp(prefix="longhaul-localstack-objects-"))

    @property
    def tls_url(self) -> str:
        """The same server by https, with a certificate of its own."""
        return f"https://localhost:{self.port}"

    @property
    def certificate(self) -> Path:
        """A file with that certificate, once the server answers."""
        return self._directory / "certificate.pem"

    def place(self, bucket: str, **changes: Any) -> S3Place:
        """See S3Server."""
        return super().place(bucket, **{"endpoint": self.tls_url, "checksums_sent": True} | changes)

    def start(self) -> None:
        """See S3Server."""
        with (self._directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*ENDING_WITH_US, PYTHON, "-c", _PROGRAM],
                cwd=self._directory,
                env={
                    "PATH": os.environ["PATH"],
                    "HOME": str(self._directory),
                    "OBJECTS": str(self._objects),
                    "FILESYSTEM_ROOT": str(self._directory / "files"),
                    "GATEWAY_LISTEN": f"127.0.0.1:{self.port}",
                    "LOCALSTACK_HOST": f"localhost:{self.port}",
                    # The usual one listens on all addresses, whatever it is told.
                    "GATEWAY_SERVER": "hypercorn",
                    "SERVICES": "s3",
                    "EAGER_SERVICE_LOADING": "1",
                    "S3_SKIP_SIGNATURE_VALIDATION": "0",
                    # Nothing that would talk to other machines.
                    "DISABLE_EVENTS": "1",
                    "SKIP_SSL_CERT_DOWNLOAD": "1",
                    "DISABLE_CORS_CHECKS": "1",
                    "DNS_ADDRESS": "0",
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.wait_until_answering()
        self.certificate.write_text(ssl.get_server_certificate(("127.0.0.1", self.port)))

    def start_again(self) -> None:
        """See S3Server."""
        self.start()

    def close(self) -> None:
        """End it and remove its files."""
        super().close()
        shutil.rmtree(self._directory)
        shutil.rmtree(self._objects)
