"""How gunicorn runs Longhaul; everything an operator may want to change is a setting.

Read in the master, before any worker is forked and monkey-patched, and again on
SIGHUP. Names in lower case are gunicorn's settings and hooks.
"""

import fcntl
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import structlog
from gunicorn.errors import HaltServer
from gunicorn.glogging import Logger

from app import logs
from app.settings import SettingsError, load_settings

try:
    _settings = load_settings()
except SettingsError as error:
    sys.stderr.write(f"longhaul: {error}\n")
    sys.exit(2)
logs.configure(_settings.log_level, _settings.log_format)
_log = structlog.get_logger("longhaul.master")

#: Two a connection (socket and file) for all connections of a worker, and to
#: spare. Linux starts processes with 1,024, though it would grant more.
_OPEN_FILES = 8192

#: gunicorn's heartbeat and the metrics are files written from the hub; on a disk
#: that is busy syncing uploads such a write can block every connection.
_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

_PROMETHEUS = "PROMETHEUS_MULTIPROC_DIR"
_METRICS = "longhaul-metrics-"

proc_name = "longhaul"
_host = f"[{_settings.bind_host}]" if ":" in _settings.bind_host else _settings.bind_host
bind = f"{_host}:{_settings.bind_port}"
workers = _settings.workers
worker_class = "gevent"

# A waiting connection costs a greenlet and two file descriptors.
worker_connections = 2000

# Each worker says every second that its hub runs. One that has been silent for
# a minute hangs, whatever it is doing.
timeout = 60
graceful_timeout = _settings.graceful_timeout_secs

# Longer than proxies keep idle connections (nginx and AWS: 60 s), so that they
# never send a request into a connection that is being closed. It is also the
# time a client has for the head of a request.
keepalive = 75

# The query of a Resumable.js test names the file three times, percent-encoded:
# more than the default of 4094 for long names. 8190 is gunicorn's greatest.
limit_request_line = 8190

# The parser the live tests run against, even where gunicorn's C parser is
# installed. Bodies are read in the same way behind both.
http_parser = "python"

# It listens on a socket under the home directory, in a thread of the master.
control_socket_disable = True

# Which proxies are believed, TRUSTED_PROXIES says; gunicorn itself believes none.
forwarded_allow_ips = ""

worker_tmp_dir = _MEMORY

# Used with --reload only (make dev).
reload_extra_files = [".env"] if Path(".env").exists() else []

# The application logs requests itself, with tokens redacted.
accesslog = None
errorlog = None
# At INFO gunicorn tells each step of its life; the master says one line below.
loglevel = "warning" if _settings.log_level == "info" else _settings.log_level


class logger_class(Logger):  # noqa: N801 (gunicorn's name for it)
    """Hands gunicorn's own lines to the application's log."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.propagate = True


def on_starting(server: Any) -> None:
    """Before anything listens: bring the tables up to date, once for all workers.

    A PostgreSQL server that is away now may come: until then ``/ready`` says no.
    """
    for warning in _settings.warnings():
        _log.warning(warning)
    _raise_open_files()
    status = _migrate()
    if status == os.EX_TEMPFAIL and not _settings.is_sqlite:
        _log.error("start.not_migrated", hint="the workers do it when the database is there")
    elif status:
        sys.exit(status)


def on_reload(server: Any) -> None:
    """After SIGHUP, before new workers: they may bring new code that needs new tables.

    A database that is away or locked at this moment ends no server that runs.
    """
    status = _migrate()
    if status == os.EX_TEMPFAIL:
        _log.error("reload.not_migrated", hint="send SIGHUP again when the database is back")
    elif status:
        raise HaltServer("the ledger could not be migrated", status)


def when_ready(server: Any) -> None:
    """Listening, nothing forked yet: make the directory the workers' metrics meet in.

    Its name is in the environment before a worker imports prometheus_client, which
    looks once.
    """
    _remove_left_metrics()
    directory = tempfile.mkdtemp(prefix=_METRICS, dir=_MEMORY)  # mode 0700
    server.metrics_lock = _locked(directory)
    os.environ[_PROMETHEUS] = directory
    _log.info("serving", address=bind, workers=workers, storage=_settings.storage_backend)


def pre_fork(server: Any, worker: Any) -> None:
    """In the master: see that the metrics' directory is there, or the worker could not start.

    systemd removes a user's files in /dev/shm when the user logs out.
    """
    Path(os.environ[_PROMETHEUS]).mkdir(mode=0o700, exist_ok=True)


def post_fork(server: Any, worker: Any) -> None:
    """Forget the modules the master imported: after an edit the worker must not mix old and new."""
    for name in [name for name in sys.modules if name == "app" or name.startswith("app.")]:
        del sys.modules[name]


def post_worker_init(worker: Any) -> None:
    """The application is loaded: start what runs beside requests."""
    from app.worker import start_worker

    start_worker(worker)


def worker_int(worker: Any) -> None:
    """Told to stop at once (Ctrl-C, a reload): go, since all that was acknowledged is on disk.

    What gunicorn does next, ``sys.exit`` in a greenlet, is shown as a crash by gevent.
    """
    sys.stderr.flush()
    os._exit(0)


def child_exit(server: Any, worker: Any) -> None:
    """In the master: take the dead worker's gauges out of the metrics."""
    from prometheus_client import multiprocess

    multiprocess.mark_process_dead(worker.pid)


def on_exit(server: Any) -> None:
    _log.info("stopped")
    shutil.rmtree(os.environ[_PROMETHEUS], ignore_errors=True)


def _locked(directory: str) -> int | None:
    """Lock a directory until this process and its workers have ended; None if others hold it."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _remove_left_metrics() -> None:
    """Remove the metrics of servers that were killed; memory is too good for them."""
    for path in Path(_MEMORY or tempfile.gettempdir()).glob(f"{_METRICS}*"):
        try:
            descriptor = _locked(str(path))
        except OSError:  # of another user, or just removed
            continue
        if descriptor is not None:
            shutil.rmtree(path, ignore_errors=True)
            os.close(descriptor)


def _raise_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _migrate() -> int:
    """Run the migrations in a process of its own, so that the master stays free of the app.

    Returns the command's exit status; where that is not 0 the command has said why.
    """
    command = [sys.executable, "-m", "flask", "--app", "wsgi:app", "ledger", "migrate"]
    return subprocess.run(command, check=False).returncode
