"""The stream for people: who reads it, how far behind, what was refused and why; sent again, or forgotten."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from typing import Any

from rich.table import Table

from millrace.errors import InvalidInput, NotFound
from millrace.events.stream import Group, Refused, Stream, open_stream
from millrace.settings import Settings


def add_options(parser: argparse.ArgumentParser) -> None:
    """What `millrace events` takes."""
    parser.add_argument("--refused", action="store_true", help="list the events that a reader refused, with the reason")
    parser.add_argument(
        "--send-again",
        nargs="*",
        metavar="ID",
        help="with --refused: hand these events (none named: all) to their reader again",
    )
    parser.add_argument(
        "--forget", metavar="TOPIC/GROUP", default="", help="remove a reader that is gone: events are kept for it"
    )


def events(arguments: argparse.Namespace, here: Settings) -> tuple[Any, Any]:
    """Run the command; what it found, as JSON and as a table or a sentence. Raises InvalidInput, NotFound."""
    if arguments.send_again is not None and not arguments.refused:
        raise InvalidInput("--send-again is of refused events; wanted --refused --send-again [ID …]")
    stream = open_stream(here)
    try:
        if arguments.forget:
            return _forgotten(stream, arguments.forget)
        if arguments.send_again is not None:
            return _sent_again(stream, arguments.send_again)
        return _refused(stream) if arguments.refused else _groups(stream)
    finally:
        stream.close()


def _groups(stream: Stream) -> tuple[Any, Any]:
    found = [(group, stream.lag(group)) for group in sorted(stream.groups())]
    table = Table("topic", "group", "waiting", "oldest", "refused", title="readers of the event stream")
    for group, lag in found:
        table.add_row(group.topic, group.name, str(lag.events), f"{lag.oldest_s:.0f} s", str(lag.refused))
    names = ("topic", "group", "waiting", "oldest_s", "refused")
    rows = [dict(zip(names, (*group, lag.events, lag.oldest_s, lag.refused), strict=True)) for group, lag in found]
    return rows, table


def _refused(stream: Stream) -> tuple[Any, Any]:
    found = stream.refused()
    table = Table("id", "topic", "group", "when", "reason", title="refused events")
    for refused in found:
        table.add_row(refused.id, *refused.group, _at(refused), refused.reason)
    rows = [
        {
            "id": refused.id,
            "topic": refused.group.topic,
            "group": refused.group.name,
            "refused_at": _at(refused),
            "reason": refused.reason,
            "event": refused.body.decode(errors="replace"),
        }
        for refused in found
    ]
    return rows, table


def _sent_again(stream: Stream, ids: list[str]) -> tuple[Any, Any]:
    known = {refused.id for refused in stream.refused(limit=1_000_000)}
    if unknown := sorted(set(ids) - known):
        raise NotFound(f"no refused event {unknown[0]!r}; `millrace events --refused` lists them")
    count = stream.send_again(ids)
    return {"sent_again": count}, f"{count} events are with their reader again; what it refuses again is listed again."


def _forgotten(stream: Stream, text: str) -> tuple[Any, Any]:
    group = Group(*text.partition("/")[::2])
    if group not in stream.groups():
        known = ", ".join(map("/".join, sorted(stream.groups()))) or "none"
        raise NotFound(f"no reader {text!r} of the event stream; there: {known}")
    stream.forget(group)
    return {"forgotten": text}, f"{text} is forgotten; if it reads again, it begins with the oldest event that is kept."


def _at(refused: Refused) -> str:
    return datetime.fromtimestamp(refused.refused_at, UTC).isoformat(timespec="seconds")
