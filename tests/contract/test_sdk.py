"""Where we stand below the public interface of kserve and uvicorn: the reasons still hold, and the places are there.

A failure here after an upgrade says which of our own parts may go, or must follow.
"""

from __future__ import annotations

import asyncio
import inspect
import socket
from collections.abc import Iterator
from importlib.metadata import version
from types import SimpleNamespace

import pytest
import uvicorn
from kserve.errors import ModelNotReady, ServerNotReady
from kserve.model_server import ModelServer, app
from kserve.protocol.grpc.interceptors import ExceptionToStatusInterceptor
from kserve.protocol.grpc.servicer import InferenceServicer
from kserve.protocol.rest.server import RESTServer
from kserve.utils.utils import to_headers
from servers import listening
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from serving.rpc import Service
from serving.wire import StrictProtocol

WHOLE = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n%s\r\nabc"
OFFER = b"connection: upgrade\r\nupgrade: h2c\r\n"


def test_the_sdk_is_the_one_that_was_read():
    assert version("kserve") == "0.21.0", "look at serving/server.py, rpc.py and startup.py again"


def test_the_rest_server_still_has_no_setting_for_host_or_protocol():
    """`serving/server.py` sets them, and the application, on its uvicorn configuration."""
    settings = inspect.signature(RESTServer.__init__).parameters

    assert not {"host", "http", "proxy_headers"} & set(settings)
    made = RESTServer("kserve.model_server:app", None, None, 0)
    assert isinstance(made.config, uvicorn.Config)
    assert isinstance(made._server, uvicorn.Server)
    assert made._server.config is made.config


def test_the_application_still_redirects_a_slash():
    """`serving/server.py` switches it off: the redirect leads past whatever stands in front."""
    assert hasattr(app.router, "redirect_slashes")
    assert "_rest_server" in inspect.getsource(ModelServer.start)


def test_metadata_in_bytes_is_still_handed_on_as_it_is():
    """`serving/rpc.py` reads metadata itself."""
    entry = SimpleNamespace(key="x-user-bin", value=b"\xff")
    context = SimpleNamespace(invocation_metadata=lambda: (entry,))

    assert to_headers(context) == {"x-user-bin": b"\xff"}


def test_the_sdks_service_still_ignores_the_version_of_a_call():
    assert "model_version" not in inspect.getsource(InferenceServicer.ModelInfer)
    assert issubclass(Service, InferenceServicer)
    calls = {name for name in vars(InferenceServicer) if name[0].isupper()}
    assert calls >= {"ModelInfer", "ModelReady", "ModelMetadata", "RepositoryModelLoad", "RepositoryModelUnload"}


@pytest.mark.parametrize("error", [ServerNotReady("x"), ModelNotReady("m"), NotImplementedError("x")])
def test_the_sdks_interceptor_still_breaks_on_its_own_errors(error):
    """`serving/rpc.py` raises none of them."""

    async def abort(code, details):
        raise AssertionError("reached")

    handled = ExceptionToStatusInterceptor().handle_exception(error, None, SimpleNamespace(abort=abort), "m")

    with pytest.raises(AttributeError, match="reason"):
        asyncio.run(handled)


async def length(scope, receive, send):
    """Answers with the length of the body that arrived."""
    got, message = 0, {"more_body": True}
    while message.get("more_body"):
        message = await receive()
        got += len(message.get("body", b""))
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
    await send({"type": "http.response.body", "body": b"%d" % got})


@pytest.fixture(params=[HttpToolsProtocol, StrictProtocol], ids=["uvicorn's", "ours"])
def ask(request) -> Iterator:
    """(protocol, what it answers to some bytes)."""

    def conversation(data: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", port), 10) as client:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: client.recv(4096), b""))

    with listening(length, request.param) as port:
        yield request.param is StrictProtocol, conversation


def test_uvicorn_still_loses_the_body_behind_an_offer_of_another_protocol(ask):
    """The reason for `serving/wire.py`; when both are right, uvicorn's own may do."""
    ours, conversation = ask

    answer = conversation(WHOLE % OFFER)

    assert answer.endswith(b"\r\n\r\n3") is ours, answer


def test_both_answer_a_plain_request(ask):
    _, conversation = ask

    assert b"HTTP/1.1 200 OK" in conversation(WHOLE % b"connection: close\r\n")


def test_what_the_strict_protocol_uses_of_uvicorns_is_there():
    names = {"parser", "cycle", "pipeline", "flow", "headers", "url"}
    config = uvicorn.Config(length, log_level="critical")
    config.load()
    made = HttpToolsProtocol(config, uvicorn.server.ServerState(), {}, asyncio.new_event_loop())
    made.loop.close()
    parameters = inspect.signature(RequestResponseCycle.__init__).parameters

    assert names - {"url"} <= set(vars(made))
    assert callable(made._unset_keepalive_if_required)
    assert {"keep_alive", "message_event", "on_response"} <= set(parameters)
    source = inspect.getsource(RequestResponseCycle.__init__)
    assert all(f"self.{name}" in source for name in ("disconnected", "response_complete", "keep_alive"))
