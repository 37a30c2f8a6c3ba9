"""The WSGI entry: ``gunicorn -c deploy/gunicorn.conf.py wsgi:app``; the ``flask`` command too."""

import sys

from app import create_app
from app.settings import SettingsError

try:
    app = create_app()
except SettingsError as error:
    sys.exit(str(error))
