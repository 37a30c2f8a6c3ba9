"""The WSGI entry: ``gunicorn -c deploy/gunicorn.conf.py wsgi:app``; the ``flask`` command too."""

import sys

from app import create_app
from app.settings import SettingsError

#: With this status of a worker gunicorn's master gives up; any other it takes for a
#: crash, and starts the next worker without end.
_BOOT_FAILED = 3

try:
    app = create_app()
except SettingsError as error:
    sys.stderr.write(f"longhaul: {error}\n")
    sys.exit(_BOOT_FAILED)
