"""The README is true: its walk-through runs as printed, its tables are complete."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from app import create_app
from app.domain.states import mermaid
from app.settings import Settings
from tests.conftest import StartServer
from tests.harness.server import API_KEY, JWT_SECRET, ROOT, Server

README = (ROOT / "README.md").read_text()

#: Generous: the block makes and sends 120 MB.
WALK_THROUGH_SECONDS = 120


def run_block(server: Server, name: str) -> str:
    """Run a block of the README in a server's folder, as a user would; return what it prints."""
    (server.directory / ".env").write_text(f"API_KEY={API_KEY}\n")
    block = re.search(rf"<!-- {name}: .*?-->\n```sh\n(.*?)```", README, re.DOTALL)
    assert block is not None
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block[1].replace("http://localhost:3000", server.url)],
        cwd=server.directory,
        capture_output=True,
        text=True,
        timeout=WALK_THROUGH_SECONDS,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_the_walk_through_works_as_printed(start_server: StartServer) -> None:
    printed = run_block(start_server(CHUNK_SIZE_MB=50), "walk-through")
    assert printed.endswith("the same bytes\n")
    assert '"status":"complete"' in printed


def test_the_tus_walk_through_works_as_printed(start_server: StartServer) -> None:
    assert run_block(start_server(), "tus walk-through") == "the same bytes\n"


def test_every_route_is_in_the_table_of_endpoints(tmp_path: Path) -> None:
    app = create_app(
        Settings(api_key=API_KEY, jwt_secret=JWT_SECRET, database_path=str(tmp_path / "db"))
    )
    names = {"upload_id": "{id}", "part": "{n}", "file": "{file}"}
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<(\w+)>", lambda match: names[match[1]], rule.rule)
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
            assert f"| `{method} {path}` |" in README, f"{method} {path}"


def test_the_state_diagram_is_the_transition_table() -> None:
    assert f"```mermaid\n{mermaid()}```" in README
