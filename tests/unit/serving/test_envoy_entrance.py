"""Envoy as the local runtime sets it: token, TLS, limits."""

from __future__ import annotations

import json
import ssl
import stat
import subprocess
from collections import Counter
from collections.abc import Iterator
from http.client import HTTPSConnection
from pathlib import Path

import pytest
from envoy_plane import PATH, Plane, Server, post, raw, routed, running


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
        plain = raw(plane.port, post(b"{}"))

    assert found == (200, "m")
    assert b"200" not in plain


def test_more_requests_than_the_limit_are_refused(tmp_path, servers):
    server = servers("m")
    with running(tmp_path, routed("m", server.port), rate_per_s=5) as plane:
        statuses = Counter(plane.ask()[0] for _ in range(20))

    assert statuses[200] >= 5
    assert statuses[429] >= 5


def _certificate(folder: Path) -> tuple[Path, Path]:
    """Of localhost, signed by itself."""
    certificate, key = folder / "tls.crt", folder / "tls.key"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command, *names], check=True, capture_output=True)
    return certificate, key
