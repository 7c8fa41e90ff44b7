"""Servers behind an Envoy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from envoy_plane import Server


@pytest.fixture
def servers() -> Iterator[Any]:
    """Makes servers; closes them at the end."""
    made: list[Server] = []

    def make(name: str, port: int = 0) -> Server:
        made.append(Server(name, port))
        return made[-1]

    yield make
    for server in made:
        server.close()
