"""A real receiver of webhooks on a free port, which answers as a test wants."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: Longer than the last retry's pause, so that a missing delivery is a failure.
PATIENCE_SECONDS = 20


@dataclass(frozen=True)
class Call:
    """One POST: its path, headers in lower case, JSON document, and when it came (monotonic)."""

    path: str
    headers: dict[str, str]
    document: dict[str, Any]
    at: float


class _Server(ThreadingHTTPServer):
    #: As many as send at the same moment: socketserver lets five wait, and others are reset.
    request_queue_size = 128


class Receiver:
    """Collects calls; ``answer`` returns the status for the n-th call (from 0) of a path."""

    def __init__(self, answer: Callable[[int], int]) -> None:
        self._answer = answer
        self._calls: queue.Queue[Call] = queue.Queue()
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._http = _Server(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._http.serve_forever, name="receiver")

    @property
    def url(self) -> str:
        """The address to give as webhook_url."""
        return f"http://127.0.0.1:{self._http.server_address[1]}/hook?key=value"

    def next_call(self) -> Call:
        """Return the next call, waiting for it."""
        return self._calls.get(timeout=PATIENCE_SECONDS)

    @property
    def has_more(self) -> bool:
        """True if a call has come that nobody has looked at."""
        return not self._calls.empty()

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def stop(self) -> None:
        """End serving."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                call = Call(self.path, headers, json.loads(body), time.monotonic())
                with receiver._lock:
                    number = receiver._counts[self.path]
                    receiver._counts[self.path] += 1
                receiver._calls.put(call)
                self.send_response(receiver._answer(number))
                self.send_header("Content-Length", "6")
                self.end_headers()
                self.wfile.write(b"answer")

            def log_message(self, *_: object) -> None:
                """Keep quiet."""

        return Handler


@contextmanager
def receiving(answer: Callable[[int], int] = lambda _: 200) -> Iterator[Receiver]:
    """Run a receiver while the block runs."""
    receiver = Receiver(answer)
    receiver.start()
    try:
        yield receiver
    finally:
        receiver.stop()
