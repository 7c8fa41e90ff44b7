"""The servers alone, without a proxy in front, against the table of HTTP cases: real processes, raw sockets."""

from __future__ import annotations

from collections.abc import Iterator

import conformance
import pytest
import servers
from conformance import Case, Target

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


@pytest.mark.parametrize("case", conformance.CASES, ids=lambda case: case.name)
def test_the_predictor_conforms(at_predictor, case: Case):
    conformance.check(case, at_predictor)


@pytest.mark.parametrize("case", conformance.CASES, ids=lambda case: case.name)
def test_the_transformer_conforms(at_transformer, case: Case):
    conformance.check(case, at_transformer)
