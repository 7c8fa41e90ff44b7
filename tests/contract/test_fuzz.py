"""A short run of the fuzzer at real servers: nothing of status 500, nobody gets another's answer, nothing hangs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import servers

NAME = "fraud-detector"
HISTORY_LENGTH = 16
REQUESTS = 600

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def addresses(tiny_model, tmp_path_factory) -> Iterator[list[str]]:
    """The options that name a predictor, a transformer and a prediction log of one small home."""
    home = tmp_path_factory.mktemp("home")
    servers.small_world(home, HISTORY_LENGTH)
    model = tiny_model("fuzzed-servers", history_length=HISTORY_LENGTH, every_input=True)
    environment = {"MILLRACE_HOME": str(home), "MILLRACE_HISTORY_LENGTH": str(HISTORY_LENGTH), "MODEL_VERSION": "1"}
    ready, named = f"/v2/models/{NAME}/ready", f"--model_name={NAME}"
    with (
        servers.running("serving.predictor.server", ready, home, named, f"--model_dir={model}", **environment) as model,
        servers.running("serving.prediction_log.server", "/readyz", home, **environment) as log,
        servers.running(
            "serving.transformer.server",
            ready,
            home,
            named,
            f"--predictor_host=127.0.0.1:{model.port}",
            **environment,
        ) as path,
    ):
        yield [
            f"--to-http=127.0.0.1:{path.port}",
            f"--to-grpc=127.0.0.1:{path.grpc_port}",
            f"--to-predictor=127.0.0.1:{model.port}",
            f"--to-log=127.0.0.1:{log.port}",
        ]


def test_a_short_fuzzing_run_finds_nothing(addresses, tmp_path):
    out = tmp_path / "fuzz.json"
    command = [sys.executable, "-m", "benchmarks.fuzz", *addresses, f"--requests={REQUESTS}", "--seed=1"]
    environment = os.environ | {"MILLRACE_HOME": str(tmp_path), "MILLRACE_HISTORY_LENGTH": str(HISTORY_LENGTH)}

    done = subprocess.run(
        [*command, f"--out={out}"], cwd=servers.ROOT, env=environment, capture_output=True, text=True, timeout=240
    )

    report = json.loads(out.read_text())
    found = {name: report[name] for name in ("status_500", "wrong_answers", "hangs")}
    assert found == {"status_500": 0, "wrong_answers": 0, "hangs": 0}, done.stdout
    assert done.returncode == 0
    assert report["requests"] == REQUESTS
    assert set(report["by_kind"]) == {"v1", "v2", "tensors", "binary", "grpc", "labels", "events", "logged"}
    assert report["by_kind"]["v1"]["statuses"]["200"] > 0
