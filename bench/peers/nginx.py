"""nginx's WebDAV PUT: the fastest ordinary receiver. It hashes nothing and never syncs."""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.client import Transfer, put_head
from bench.loads import DEFAULT_LOADS, RESUMABLE_LOADS, TUS_LOADS, Durability, Load
from bench.peers.base import NEVER_SYNCS, WORKERS, Peer, Served, check_files
from bench.procs import free_port, running
from bench.source import Source

#: What its rows are called; others are compared with them.
NGINX = "nginx"

_CONFIG = """\
{user}
worker_processes {workers};
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/error.log warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    client_max_body_size 0;
    client_body_buffer_size {buffer};
    client_body_temp_path {directory}/client_body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    keepalive_requests 1000000;
    server {{
        listen 127.0.0.1:{port};
        root {directory}/files;
        location / {{
            dav_methods PUT;
            create_full_put_path on;
        }}
    }}
}}
"""


class Nginx(Peer):
    """nginx with a body buffer of 1 MiB, the size that all other receivers write in."""

    name = NGINX
    remark = NEVER_SYNCS
    loads = tuple(dict.fromkeys((*DEFAULT_LOADS, *TUS_LOADS, *RESUMABLE_LOADS)))
    buffer = "1m"

    def missing(self) -> str | None:
        return None if nginx_program() else "nginx is not installed"

    @contextmanager
    def serve(self, directory: Path, load: Load, source: Source) -> Iterator[Served]:
        files = [directory / "files" / "put" / str(index) for index in range(load.total_count)]
        transfers = [
            Transfer(
                put_head(f"/put/{path.name}", load.body_bytes),
                source.offset(index),
                load.body_bytes,
                status=201,
                sync_path=str(path) if self.durability is Durability.STRICT else None,
            )
            for index, path in enumerate(files)
        ]
        with nginx(directory, self.buffer) as (pid, port):
            yield Served(pid, port, transfers, lambda all_: check_files(files, source, all_))


class NginxSmallBuffer(Nginx):
    """nginx as it comes, with its default body buffer: half as fast with large bodies."""

    name = "nginx, 16k buffer"
    on_request = True
    buffer = "16k"


@contextmanager
def nginx(directory: Path, buffer: str) -> Iterator[tuple[int, int]]:
    """Run nginx with its files in ``directory``/files; yield its process id and port."""
    port = free_port()
    config = directory / "nginx.conf"
    config.write_text(
        _CONFIG.format(
            # As root, nginx's workers would become another user, who may not write here.
            user=f"user {pwd.getpwuid(0).pw_name};" if os.geteuid() == 0 else "",
            workers=WORKERS,
            directory=directory,
            buffer=buffer,
            port=port,
        )
    )
    command = [nginx_program() or "nginx", "-p", str(directory), "-c", str(config)]
    with running(command, port=port, log=directory / "log") as pid:
        yield pid, port


def nginx_program() -> str | None:
    """Return the path of nginx, None where it is not installed."""
    # Debian keeps it in sbin, which an ordinary user's PATH does not name.
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
