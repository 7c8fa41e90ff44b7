"""The servers alone, without a proxy in front, against the table of HTTP cases: real processes, raw sockets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import conformance
import pytest
import servers
from conformance import Case, Target
from envoy_plane import routed, running

from fraud.features import FEATURE_NAMES

NAME = "fraud-detector"
HISTORY_LENGTH = 16
HISTORY = (8, 4)
"""Steps and channels of the tiny model."""

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def predictor(tiny_model, tmp_path_factory) -> Iterator[servers.Server]:
    model = tiny_model("conforming", history_length=HISTORY_LENGTH, every_input=True)
    folder = tmp_path_factory.mktemp("predictor")
    arguments = (f"--model_name={NAME}", f"--model_dir={model}")
    with servers.running(
        "serving.predictor.server", f"/v2/models/{NAME}/ready", folder, *arguments, MODEL_VERSION="1"
    ) as server:
        yield server


@pytest.fixture(scope="module")
def transformer(predictor, tmp_path_factory) -> Iterator[servers.Server]:
    home = tmp_path_factory.mktemp("home")
    servers.small_world(home, HISTORY_LENGTH)
    arguments = (f"--model_name={NAME}", f"--predictor_host=127.0.0.1:{predictor.port}")
    environment = {"MILLRACE_HOME": str(home), "MILLRACE_HISTORY_LENGTH": str(HISTORY_LENGTH)}
    with servers.running(
        "serving.transformer.server", f"/v2/models/{NAME}/ready", home, *arguments, **environment
    ) as server:
        yield server


@pytest.fixture(scope="module")
def at_predictor(predictor) -> Target:
    return Target(
        predictor.port,
        f"/v2/models/{NAME}/infer",
        lambda number: servers.v2_features(number, len(FEATURE_NAMES), HISTORY),
        lambda document: int(document["id"]),
        NAME,
    )


@pytest.fixture(scope="module")
def at_transformer(transformer) -> Target:
    return Target(
        transformer.port,
        f"/v1/models/{NAME}:predict",
        servers.v1_transaction,
        lambda document: int(document["predictions"][0]["transaction_id"]),
        NAME,
    )


@pytest.fixture(scope="module")
def at_log(tmp_path_factory) -> Iterator[Target]:
    home = tmp_path_factory.mktemp("log")
    with servers.running("serving.prediction_log.server", "/readyz", home, MILLRACE_HOME=str(home)) as server:
        yield Target(server.port, "/v1/labels", servers.labels, lambda document: int(document["accepted"]), NAME)


@pytest.mark.parametrize("case", [*conformance.FRAMING, *conformance.BODIES], ids=lambda case: case.name)
def test_the_prediction_log_conforms(at_log, case: Case):
    conformance.check(case, at_log)


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_the_prediction_log_answers_head_at_once(at_log, path):
    with conformance.Client(at_log) as client:
        client.send([at_log.head(method="HEAD", path=path), at_log.ask(3)])

        assert client.read("HEAD").status == 200
        assert client.read("POST").document == {"accepted": 3}


def test_no_server_listens_with_another_protocol():
    """The trigger, the log, the SDK's servers: whoever makes a uvicorn configuration names the strict protocol."""
    sources = {path: path.read_text() for path in (servers.ROOT / "serving").rglob("*.py")}
    makers = {str(path.relative_to(servers.ROOT)) for path, text in sources.items() if "uvicorn.Config(" in text}
    strict = {str(path.relative_to(servers.ROOT)) for path, text in sources.items() if "http=StrictProtocol" in text}

    assert makers == strict != set()
    assert "config.http = StrictProtocol" in sources[servers.ROOT / "serving" / "server.py"]


@pytest.fixture(scope="module")
def at_gateway(predictor, at_predictor, tmp_path_factory) -> Iterator[Target]:
    service = routed(NAME, predictor.port, grpc_ports=(predictor.grpc_port,), timeout_s=20.0)
    with running(tmp_path_factory.mktemp("gateway"), service) as plane:
        yield replace(at_predictor, port=plane.port)


PROXYS_OWN = {
    "half-closed": "to Envoy a client that closes its sending side is gone",
    "half-closed, pipelined": "the same",
    "half-closed in a body": "the same",
    "pipelined twice, then half-closed in a body": "the same",
    "speaks HTTP/2 at once": "Envoy does, too",
    "folded header": "a proxy may put the lines together (RFC 9112, 5.2), and asks on",
    "too large, and waits for 100": "Envoy says 100 itself, and 413 once the limit has been read",
}
"""Cases that the proxy answers in its own way, and why."""
BEHIND_ENVOY = [case for case in conformance.CASES if case.name not in PROXYS_OWN]


@pytest.mark.parametrize("case", BEHIND_ENVOY, ids=lambda case: case.name)
def test_envoy_with_the_predictor_behind_it_conforms(at_gateway, case: Case):
    conformance.check(case, at_gateway, proxied=True)


@pytest.mark.parametrize("case", conformance.CASES, ids=lambda case: case.name)
def test_the_predictor_conforms(at_predictor, case: Case):
    conformance.check(case, at_predictor)


@pytest.mark.parametrize("case", conformance.CASES, ids=lambda case: case.name)
def test_the_transformer_conforms(at_transformer, case: Case):
    conformance.check(case, at_transformer)
