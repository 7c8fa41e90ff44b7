"""A source behind HTTP: a real server on this machine."""

from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from components.ingest.core import source_version
from millrace.reading.sources import list_files

pytest.importorskip("aiohttp", reason="fsspec reads HTTP with it")


class Silent(SimpleHTTPRequestHandler):
    """Says when a file was last modified, as most servers do."""

    def log_message(self, *_: Any) -> None:
        pass


class Mute(Silent):
    """Says nothing about the version of a file."""

    def send_header(self, keyword: str, value: str) -> None:
        if keyword != "Last-Modified":
            super().send_header(keyword, value)


Serve = Callable[..., str]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    servers: list[ThreadingHTTPServer] = []

    def start(handler: type[SimpleHTTPRequestHandler] = Silent) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(tmp_path)))
        servers.append(server)
        Thread(target=server.serve_forever, daemon=True).start()
        return f"127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_file_that_changed_on_the_server_is_read_again(
    serve: Serve, lake: Any, make: Any, csv_of: Any, tmp_path: Path
) -> None:
    csv_of(make(range(3)), tmp_path / "a.csv")
    source = f"http://{serve()}/a.csv"
    first, version = lake.ingest(source), source_version(source)
    assert (lake.ingest(source).id, source_version(source)) == (first.id, version)

    csv_of(make(range(4)), tmp_path / "a.csv")

    assert source_version(source) != version
    assert lake.ids(lake.ingest(source)) == [0, 1, 2, 3]


def test_where_the_server_tells_no_version_a_file_counts_as_changed(
    serve: Serve, lake: Any, make: Any, csv_of: Any, tmp_path: Path
) -> None:
    csv_of(make(range(3)), tmp_path / "a.csv")
    source = f"http://{serve(Mute)}/a.csv"

    assert list_files(source)[0].stamp != list_files(source)[0].stamp
    first = lake.ingest(source)
    csv_of(make(range(1, 4)), tmp_path / "a.csv")
    assert lake.ids(lake.ingest(source)) == [1, 2, 3]
    csv_of(make(range(3)), tmp_path / "a.csv")
    assert lake.ingest(source).id == first.id


def test_nothing_in_the_lake_holds_the_credentials_of_the_source(
    serve: Serve, lake: Any, make: Any, csv_of: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = make(range(3))
    rows[1]["amount"] = "none"
    csv_of(rows, tmp_path / "a.csv")
    host = serve()

    manifest = lake.ingest(f"http://{host}/a.csv?sig=SECRET")

    assert manifest.facts["source"]["uri"] == f"http://{host}/a.csv"
    assert lake.quarantine(manifest, "source_file") == [(f"http://{host}/a.csv",)]
    kept = [path for path in lake.folder.rglob("*") if path.suffix == ".json"]
    assert kept
    assert not any("SECRET" in path.read_text() for path in kept)
    assert "SECRET" not in capsys.readouterr().err
