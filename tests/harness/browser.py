"""Chromium, driven by Playwright, and Node with what ``npm ci`` installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from tests.harness.missing import lacking
from tests.harness.server import ROOT

NODE_MODULES = ROOT / "node_modules"

#: As distributions call it.
_CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")

_ARGUMENTS = (
    "--no-sandbox",  # which root may not use
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",  # in containers it has 64 MiB
)

#: Bundling takes tens of milliseconds, on a busy machine as well some seconds.
_BUNDLE_SECONDS = 120


def find_chromium() -> str:
    """Return Chromium's path, or skip the test (fail it in CI)."""
    path = next(filter(None, map(shutil.which, _CHROMIUM_NAMES)), None)
    if path is None:
        lacking("Chromium is not installed (Debian: apt-get install chromium)")
    return path


def find_node() -> str:
    """Return Node's path if the packages are there too, or skip the test (fail it in CI)."""
    node = shutil.which("node")
    if node is None:
        lacking("Node is not installed (Debian: apt-get install nodejs npm)")
    if not (NODE_MODULES / "tus-js-client").is_dir():
        lacking("the packages from npm are not installed (npm ci --ignore-scripts)")
    return node


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run a Chromium; pages are opened in contexts of the tests' own."""
    executable = find_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=_ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


def bundle(entry: Path, target: Path) -> Path:
    """Bundle a script with what it imports from npm for browsers; return ``target``.

    CSS that it imports lands beside it, with the suffix ``.css``.
    """
    node = find_node()
    subprocess.run(
        [
            node,
            str(NODE_MODULES / "esbuild" / "bin" / "esbuild"),
            str(entry),
            "--bundle",
            "--log-level=warning",
            f"--outfile={target}",
        ],
        cwd=ROOT,
        env={**os.environ, "NODE_PATH": str(NODE_MODULES)},
        check=True,
        timeout=_BUNDLE_SECONDS,
    )
    return target
