"""A prediction log on SQLite, and on a PostgreSQL of its own where one is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from millrace.prediction_log import engine, migrate
from millrace.settings import Settings


@pytest.fixture(scope="session")
def event() -> Callable[..., dict[str, Any]]:
    """An event of the transformer, by transaction number; keywords change its data."""
    return _event


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of a PostgreSQL server on a socket in a temporary folder; as root it runs as nobody, since it must."""
    programs = _programs()
    if programs is None:
        pytest.skip("no PostgreSQL: initdb is neither on PATH nor in /usr/lib/postgresql (apt-get install postgresql)")
    user = _other_user()
    folder = Path(tempfile.mkdtemp(prefix="millrace-pg-", dir="/tmp"))  # a socket's path has at most 107 bytes
    try:
        if user is not None:
            shutil.chown(folder, user)
        data, options = str(folder / "data"), f"-c listen_addresses= -k {folder} -c fsync=off"
        _as(user, folder, programs / "initdb", "-D", data, "-A", "trust", "-U", "millrace", "--no-sync")
        _as(user, folder, programs / "pg_ctl", "-D", data, "-o", options, "-l", str(folder / "log"), "-w", "start")
        yield f"postgresql://millrace@/postgres?host={folder}"
        _as(user, folder, programs / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings whose prediction log is an empty database of either kind."""
    if request.param == "sqlite":
        return Settings(home=tmp_path)
    server = request.getfixturevalue("postgres")
    name = f"log_{abs(hash(request.node.nodeid)) % 10**9}_{os.getpid()}"
    with closing(psycopg.connect(server, autocommit=True)) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return Settings(home=tmp_path, prediction_log_url=server.replace("/postgres?", f"/{name}?"))


@pytest.fixture
def log(home: Settings) -> Iterator[sa.Engine]:
    made = engine(home)
    migrate(made)
    yield made
    made.dispose()


def _programs() -> Path | None:
    on_path = shutil.which("initdb")
    folders = [Path(on_path).parent] if on_path else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((folder for folder in reversed(folders) if (folder / "initdb").exists()), None)


def _other_user() -> str | None:
    return "nobody" if os.geteuid() == 0 else None


def _as(user: str | None, folder: Path, *command: object) -> None:
    options = {"user": user, "group": "nogroup"} if user else {}
    subprocess.run([str(part) for part in command], check=True, cwd=folder, stdout=subprocess.DEVNULL, **options)


def _event(number: int, **data: Any) -> dict[str, Any]:
    said = {
        "transaction_id": number,
        "event_timestamp": "2018-09-30T11:59:59Z",
        "customer_id": "0123456789abcdef",
        "terminal_id": "42",
        "amount": 12.5,
        "model_name": "fraud-detector",
        "model_version": "3",
        "score": 0.25,
        "decision": "approve",
        "degraded": False,
        "stage": "full",
        "arm": "champion",
        "latency_ms": 3.5,
        "features": [1.5, None, 0.25],
        "feature_service": "fraud_v1",
    }
    return {
        "specversion": "1.0",
        "type": "io.millrace.prediction",
        "id": f"request-{number}:0",
        "source": "/millrace/fraud-detector",
        "subject": str(number),
        "time": "2018-09-30T12:00:00.123Z",
        "data": said | data,
    }
