"""Who may ask the local gateway, with a token and without."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from millrace.errors import ConfigError, Unavailable
from millrace.settings import Settings
from serving.connections import Response
from serving.local.gateway import Gateway

PATH = "/v1/models/fraud-detector:predict"


class Echo:
    """A service that answers with the names of the headers that reached it."""

    timeout_s = 1.0
    logger = None

    async def connections(self) -> Echo:
        return self

    async def request(self, _method: bytes, _path: bytes, _body: bytes, headers: Any, *, timeout_s: float) -> Response:
        assert timeout_s == self.timeout_s
        return Response(200, [], b",".join(sorted(name for name, _ in headers)))


def asked(gateway: Gateway, path: str = PATH, *headers: tuple[bytes, bytes]) -> tuple[int, dict[bytes, bytes], bytes]:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "headers": list(headers)}
    asyncio.run(gateway(scope, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"]), b"".join(message.get("body", b"") for message in sent)


def guarded(token: str = "s3cret") -> Gateway:
    wanted = Settings(gateway_token=token).gateway_headers["authorization"]
    return Gateway(lambda _: Echo(), lambda: "metrics", authorization=wanted)


def test_without_a_token_anybody_may_ask():
    gateway = Gateway(lambda _: Echo(), lambda: "")

    assert asked(gateway)[0] == 200
    assert Settings().gateway_headers == {}


@pytest.mark.parametrize("headers", [(), ((b"authorization", b"Bearer wrong"),), ((b"authorization", b"s3cret"),)])
@pytest.mark.parametrize("path", [PATH, "/v2/models/fraud-detector/infer", "/graphs/segments"])
def test_a_missing_or_wrong_token_is_refused(path, headers):
    status, answered, body = asked(guarded(), path, *headers)

    assert status == 401
    assert answered[b"www-authenticate"] == b"Bearer"
    assert b"MILLRACE_GATEWAY_TOKEN" in body


def test_the_right_token_is_let_in_and_goes_no_further():
    status, _, names = asked(guarded(), PATH, (b"authorization", b"Bearer s3cret"), (b"x-request-id", b"1"))

    assert status == 200
    assert names == b"x-request-id"


@pytest.mark.parametrize("path", ["/healthz", "/metrics"])
def test_health_and_metrics_want_no_token(path):
    assert asked(guarded(), path)[0] == 200


class Replaced(Echo):
    """Its first process takes no connection any more; the next one does."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals

    async def request(self, *arguments: Any, timeout_s: float) -> Response:
        if self.refusals:
            self.refusals -= 1
            raise Unavailable("cannot be reached") from ConnectionRefusedError()
        return await super().request(*arguments, timeout_s=timeout_s)


@pytest.mark.parametrize(("refusals", "status"), [(1, 200), (2, 503)])
def test_a_connection_that_was_refused_is_tried_once_more(refusals, status):
    service = Replaced(refusals)

    assert asked(Gateway(lambda _: service, lambda: ""))[0] == status


def test_an_empty_token_is_an_error_not_an_open_door():
    with pytest.raises(ConfigError, match="MILLRACE_GATEWAY_TOKEN is empty"):
        _ = Settings(gateway_token=" ").gateway_headers


def test_the_token_is_not_shown():
    assert "s3cret" not in repr(Settings(gateway_token="s3cret"))
