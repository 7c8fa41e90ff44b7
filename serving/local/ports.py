"""Ports of the loopback interface. Those of servers lie below the range that connections going out take theirs from."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Collection
from pathlib import Path
from typing import Final

from millrace.errors import Unavailable
from millrace.lake.atomic import write_text
from serving.local.manifest import LOOPBACK

RANGE: Final = range(20_000, 32_000)
"""Below those of outgoing connections (Linux: from 32768): a server that starts again finds its own free."""
TRIES: Final = 200


def taken(port: int) -> bool:
    """Whether somebody listens on a port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return True
    return False


def free_port(but: Collection[int] = ()) -> int:
    """A port that nobody listens on now, `but` none of some."""
    for _ in range(TRIES):
        port = random.choice(RANGE)
        if port not in but and not taken(port):
            return port
    raise Unavailable(f"no free port found from {RANGE.start} to {RANGE.stop - 1} in {TRIES} tries")


class Ports:
    """Ports that names of a home keep, also when its supervisor is started again; a file holds them.

    While Envoy runs (`held`) they are its own; otherwise one that somebody took meanwhile is given up.
    """

    def __init__(self, path: Path, *, held: bool) -> None:
        self._path, self._held = path, held
        try:
            self._kept: dict[str, int] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            self._kept = {}

    def take(self, name: str, among: range | None = None) -> int:
        """The port of a name: the one it had, else a free one, the first of `among` where that is given; 0: none is."""
        port = self._kept.get(name, 0)
        if port and (self._held or not taken(port)):
            return port
        return self.take_another(name, among)

    def take_another(self, name: str, among: range | None = None) -> int:
        """Like `take`, but never the one it had."""
        before = self._kept.pop(name, 0)
        others = set(self._kept.values()) | {before}
        if among is None:
            port = free_port(but=others)
        else:
            port = next((port for port in among if port < 65536 and port not in others and not taken(port)), 0)
        self._kept[name] = port
        write_text(self._path, json.dumps(self._kept) + "\n")
        return port
