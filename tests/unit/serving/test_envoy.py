"""Envoy as the local runtime sets it: who gets a request, and what is counted of it."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter

import pytest
from envoy_plane import PATH, asking, more, post, raw, routed, running, wait

from serving.local.ports import free_port
from serving.local.routed import Component
from serving.rollout.samples import observed, parsed


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
        inside = [raw(service.predictor_port, post(b"{}", b"knative-serving-tag: latest")) for _ in range(3)]

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
            connection.sendall(post(b"{}"))
            connection.settimeout(0.2)
            connection.recv(1)
        wait("the count", lambda: "5xx" in plane.metrics())
        gave_up = observed(parsed(plane.metrics()), "m-predictor-00001", "1", decides=True)
        plane.ask()
        timed_out = observed(parsed(plane.metrics()), "m-predictor-00001", "1", decides=True)

    assert (gave_up.requests, gave_up.errors) == (1, 1)
    assert (timed_out.requests, timed_out.errors) == (2, 2)
