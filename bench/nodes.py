"""Several nodes behind nginx on one PostgreSQL: ``python -m bench.nodes DIRECTORY NODES PORT``.

One process is the parent of all of them, so that the benchmark measures them as
one receiver. Settings of the nodes are in the environment; they share the storage
and have a worker each. PostgreSQL keeps its defaults, syncs included.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from bench.peers.nginx import nginx_program
from bench.procs import free_port, running

_REPOSITORY = Path(__file__).resolve().parent.parent
_DEBIAN = Path("/usr/lib/postgresql")

_NGINX = """\
{user}
worker_processes 2;
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/nginx.log warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_max_body_size 0;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    keepalive_requests 1000000;
    upstream nodes {{ {servers} keepalive 32; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://nodes;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_request_buffering off;
            proxy_buffering off;
        }}
    }}
}}
"""


def find_postgres() -> Path | None:
    """Return the directory of PostgreSQL's programs, None where it is not installed."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    versions = [path for path in _DEBIAN.glob("*/bin") if (path / "initdb").exists()]
    return max(versions, key=lambda path: float(path.parent.name), default=None)


def _as_postgres(directory: Path, command: Sequence[str | Path]) -> list[str | Path]:
    """PostgreSQL refuses to run as root: another user is to own its directory and run it."""
    if os.geteuid() != 0:
        return list(command)
    user = pwd.getpwnam("postgres")
    os.chown(directory, user.pw_uid, user.pw_gid)
    ids = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    return ["setpriv", *ids, *command]


def _postgres(stack: ExitStack, directory: Path) -> str:
    programs = find_postgres()
    assert programs is not None
    place, port = directory / "postgres", free_port()
    place.mkdir()
    data = place / "data"
    for parent in (directory, *directory.parents):
        if parent.stat().st_mode & 0o005 == 0:
            parent.chmod(parent.stat().st_mode | 0o711)  # the other user has to get there
    initdb = [programs / "initdb", "-D", data, "-U", "app", "-A", "trust", "-E", "UTF8"]
    subprocess.run(_as_postgres(place, initdb), check=True, stdout=subprocess.DEVNULL, cwd="/")
    serve = [programs / "postgres", "-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", ""]
    stack.enter_context(
        running(_as_postgres(place, serve), port=port, log=directory / "log", cwd=Path("/"))
    )
    create = [programs / "createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "app", "longhaul"]
    while subprocess.run(create, check=False, stderr=subprocess.DEVNULL).returncode:
        time.sleep(0.1)  # it listens before it is ready
    return f"postgresql://app@127.0.0.1:{port}/longhaul"


def _node(stack: ExitStack, directory: Path, number: int, database_url: str) -> int:
    place, port = directory / f"node-{number}", free_port()
    place.mkdir()
    env = {
        "BIND_ADDR": f"127.0.0.1:{port}",
        "DATABASE_PATH": "",
        "DATABASE_URL": database_url,
        "TEMP_STORAGE_PATH": str(place / "temp"),
        "WORKERS": "1",
    }
    config = _REPOSITORY / "deploy" / "gunicorn.conf.py"
    command = [sys.executable, "-m", "gunicorn", "-c", str(config), "wsgi:app"]
    stack.enter_context(running(command, port=port, log=directory / "log", cwd=place, env=env))
    return port


def main() -> None:
    directory, count, port = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with ExitStack() as stack:
        database_url = _postgres(stack, directory)
        ports = [_node(stack, directory, number, database_url) for number in range(count)]
        config = directory / "nginx.conf"
        user = f"user {pwd.getpwuid(0).pw_name};" if os.geteuid() == 0 else ""
        servers = " ".join(f"server 127.0.0.1:{node};" for node in ports)
        config.write_text(_NGINX.format(user=user, directory=directory, servers=servers, port=port))
        command = [nginx_program() or "nginx", "-p", str(directory), "-c", str(config)]
        stack.enter_context(running(command, port=port, log=directory / "log"))
        signal.pause()


if __name__ == "__main__":
    main()
