"""tusd, the reference server in Go, with its file store: one process that uses all cores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.install import go_install, go_program
from bench.tus import ReferenceServer

_MODULE, _VERSION = "github.com/tus/tusd/v2/cmd/tusd", "v2.9.1"


class Tusd(ReferenceServer):
    name = "tusd"

    def missing(self) -> str | None:
        return go_install(_MODULE, _VERSION)

    def command(self, port: int, target: Path) -> Sequence[str | Path]:
        return [
            *(go_program(_MODULE, _VERSION), "-host", "127.0.0.1", "-port", str(port)),
            # Without a line for each request: no receiver here writes one.
            *("-upload-dir", target, "-base-path", "/files/", "-verbose=false"),
        ]


class TusdWhole(Tusd):
    """An upload for each body."""

    name = "tusd, whole files"
    whole = True
    on_request = True
