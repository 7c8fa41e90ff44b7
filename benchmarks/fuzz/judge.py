"""Whether an answer is right: no failure of the server, in JSON, and nobody else's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from benchmarks.fuzz.client import Answer
from benchmarks.fuzz.mutations import is_kept
from benchmarks.fuzz.requests import ROWS, Request, event_id, owner_of

RIGHT: Final = ""
STATUS_500, WRONG, HANG = "status_500", "wrong_answers", "hangs"
FAULTS: Final = (STATUS_500, WRONG, HANG)
BUSY: Final = (429, 503, 504)
"""The server says that it has no time; that is an answer."""
BROKEN: Final = (500, 501, 502)


def judged(request: Request, answer: Answer) -> tuple[str, str]:
    """The fault, or RIGHT, and why."""
    if answer.status in BROKEN:
        return STATUS_500, f"{answer.status}: {answer.body[:200]!r}"
    if request.method == "HEAD" or not answer.body:
        return _status(request, answer)
    try:
        document = _parsed(answer)
    except ValueError as error:
        return WRONG, f"{answer.status} with a body that is no JSON ({error}): {answer.body[:200]!r}"
    owners = set(_owners(document, answer))
    foreign = {owner for owner in owners if owner != request.number and not _made(owner, request)}
    if foreign:
        return WRONG, f"an answer of {foreign} to {request.number}"
    return _whole(request, answer, document, owners)


def _status(request: Request, answer: Answer) -> tuple[str, str]:
    if is_kept(request) and answer.status not in (200, 202, *BUSY):
        return WRONG, f"{answer.status} to a request that is right: {answer.body[:200]!r}"
    return RIGHT, ""


def _whole(request: Request, answer: Answer, document: Any, owners: set[int]) -> tuple[str, str]:
    """A request that is right is answered, by what says whose answer it is."""
    fault = _status(request, answer)
    if fault[0] or not is_kept(request) or answer.status in BUSY:
        return fault
    if answer.status == 202:
        if isinstance(document, dict) and document.get("accepted", request.rows) != request.rows:
            return WRONG, f"{document} to {request.rows} rows"
        return RIGHT, ""
    return (RIGHT, "") if owners else (WRONG, f"an answer without a mark: {answer.body[:200]!r}")


def _parsed(answer: Answer) -> Any:
    """The answer's document; what is no JSON by its own word is none."""
    if "json" not in answer.headers.get("content-type", "") and "octet-stream" not in answer.headers.get(
        "content-type", ""
    ):
        if answer.status >= 400:
            raise ValueError(f"content-type is {answer.headers.get('content-type')!r}")
        return None
    length = answer.headers.get("inference-header-content-length")
    return json.loads(answer.body[: int(length)] if length else answer.body, parse_constant=_refuse)


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _owners(document: Any, answer: Answer) -> Iterator[int]:
    """Numbers of the requests that an answer is of, by its marks and its events' ids; errors quote what they like."""
    marks = [answer.headers.get("x-request-id", "")]
    if answer.status < 400:
        marks.extend(_texts(document))
        yield from (owner for owner in map(owner_of, _whole_numbers(document)) if owner is not None)
    for mark in marks:
        if mark.startswith("fuzz-") and mark[5:].isdigit():
            yield int(mark[5:])


def _made(owner: int, request: Request) -> bool:
    """Whether a mutation has made an id of this owner: then it is in what was sent."""
    sent = b"".join(request.written()) + request.body
    ids = (str(event_id(owner, place)).encode() for place in range(ROWS))
    return f"fuzz-{owner}".encode() in sent or any(id_ in sent for id_ in ids)


def _whole_numbers(document: Any) -> Iterator[int]:
    if isinstance(document, dict):
        document = list(document.values())
    if isinstance(document, list):
        for value in document:
            yield from _whole_numbers(value)
    elif type(document) is int:
        yield document


def _texts(document: Any) -> Iterator[str]:
    if isinstance(document, dict) and isinstance(document.get("id"), str):
        yield document["id"]
