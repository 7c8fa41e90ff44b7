"""A prediction log on SQLite, and on a PostgreSQL of its own where one is installed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from stores import postgres_server

from millrace.events.log import engine, migrate
from millrace.settings import Settings


@pytest.fixture(scope="session")
def event() -> Callable[..., dict[str, Any]]:
    """An event of the transformer, by transaction number; keywords change its data."""
    return _event


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of a PostgreSQL server of these tests' own."""
    with postgres_server() as url:
        yield url


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
