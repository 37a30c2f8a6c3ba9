"""Longhaul's application with a clock that is too wrong for S3.

Run by gunicorn instead of ``wsgi:app``. As long as the file SLOW_CLOCK is there,
requests are signed with a time an hour ago.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from pathlib import Path

import botocore.auth

from wsgi import app as app

SLOW_CLOCK = Path(os.environ["SLOW_CLOCK"])

_right = botocore.auth.get_current_datetime


def _told(*arguments: bool, **named: bool) -> datetime:
    late = timedelta(hours=1) if SLOW_CLOCK.exists() else timedelta()
    return _right(*arguments, **named) - late


botocore.auth.get_current_datetime = _told
