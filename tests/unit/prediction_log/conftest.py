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
from logged import prediction_event
from stores import postgres_server

from millrace.events.log import engine, migrate
from millrace.settings import Settings


@pytest.fixture(scope="session")
def event() -> Callable[..., dict[str, Any]]:
    """An event of the transformer, by transaction number; keywords change its data."""
    return prediction_event


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
