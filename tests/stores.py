"""Real Redis and PostgreSQL servers for tests, each in a temporary folder; they skip where none is installed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

DEADLINE_S = 20


class RedisServer:
    """A redis-server with the cluster's configuration on a port of this machine; `stop` may be called twice."""

    PASSWORD = "0c4dd3b2a1"

    def __init__(self, folder: Path, *options: str) -> None:
        program = shutil.which("redis-server")
        if program is None:
            pytest.skip("no redis-server on PATH (apt-get install redis-server)")
        self.port = free_port()
        self._command = [program, *options, "--dir", str(folder), "--port", str(self.port), "--bind", "127.0.0.1"]
        self._command += ["--requirepass", self.PASSWORD]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + DEADLINE_S
        while self._ping() != b"+PONG":
            assert self.process.poll() is None, f"redis-server ended with {self.process.returncode}"
            assert time.monotonic() < deadline, "redis-server does not answer"

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(DEADLINE_S)

    @property
    def address(self) -> str:
        """As Feast wants it, without the options."""
        return f"127.0.0.1:{self.port},password={self.PASSWORD}"

    def _ping(self) -> bytes:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(f"AUTH {self.PASSWORD}\r\nPING\r\n".encode())
                return connection.makefile("rb").read(12)[5:10]
        except OSError:
            return b""


@contextmanager
def redis_server(folder: Path, *options: str) -> Iterator[RedisServer]:
    server = RedisServer(folder, *options)
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def postgres_server() -> Iterator[str]:
    """URL of a PostgreSQL server on a socket in a temporary folder; as root it runs as nobody, since it must."""
    programs = _postgres_programs()
    if programs is None:
        pytest.skip("no PostgreSQL: initdb is neither on PATH nor in /usr/lib/postgresql (apt-get install postgresql)")
    user = "nobody" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="millrace-pg-", dir="/tmp"))  # a socket's path has at most 107 bytes
    try:
        if user is not None:
            shutil.chown(folder, user)
        data, options = str(folder / "data"), f"-c listen_addresses= -k {folder} -c fsync=off"
        _as(user, folder, programs / "initdb", "-D", data, "-A", "trust", "-U", "millrace", "--no-sync")
        _as(user, folder, programs / "pg_ctl", "-D", data, "-o", options, "-l", str(folder / "log"), "-w", "start")
        try:
            yield f"postgresql://millrace@/postgres?host={folder}"
        finally:
            _as(user, folder, programs / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _postgres_programs() -> Path | None:
    on_path = shutil.which("initdb")
    folders = [Path(on_path).parent] if on_path else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((folder for folder in reversed(folders) if (folder / "initdb").exists()), None)


def _as(user: str | None, folder: Path, *command: object) -> None:
    options = {"user": user, "group": "nogroup"} if user else {}
    subprocess.run([str(part) for part in command], check=True, cwd=folder, stdout=subprocess.DEVNULL, **options)
