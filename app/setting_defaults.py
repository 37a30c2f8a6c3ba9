"""Defaults that depend on the machine, or on other settings."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any


def usable_cores() -> int:
    """Return the cores this process may keep busy: its affinity, less a container's CPU quota."""
    affinity = getattr(os, "sched_getaffinity", None)  # macOS has none
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no cgroup v2, or "max": no quota
        return cores


def in_memory(path: str) -> bool:
    """Whether ``path`` lies on tmpfs, as Linux tells; False where it does not tell."""
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return False
    target, nearest, kind = Path(path).resolve(), "", ""
    for _, point, filesystem, *_ in (line.split() for line in mounts):
        if target.is_relative_to(point) and len(point) >= len(nearest):
            nearest, kind = point, filesystem
    return kind in {"tmpfs", "ramfs"}


def temporary_directory(given: dict[str, Any]) -> str:
    """Return where run-time files are, beside the ledger of the settings ``given``."""
    # Beside the ledger, because the system's temporary directory is cleared at
    # boot, and acknowledged bytes with it.
    scheme, _, path = given["database_url"].get_secret_value().partition(":///")
    return f"{path}.d" if scheme == "sqlite" else "./longhaul-temp"
