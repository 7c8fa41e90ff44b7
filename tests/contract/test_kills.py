"""kill -9 of the prediction log and of the transformer under load: every answer given is in the log, once."""

from __future__ import annotations

import http.client
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import servers

from millrace.events.log import engine
from millrace.events.stream import open_stream
from millrace.events.table import read_predictions
from millrace.settings import Settings
from serving.prediction_log.writer import GROUPS

NAME = "fraud-detector"
HISTORY_LENGTH = 16
LIVES = 3
ANSWERS = 80
"""Of a life of the transformer, before it is killed; the log is killed after half of them."""
CLIENTS = 6
PATIENCE_S = 60.0

pytestmark = pytest.mark.e2e


class Load:
    """Clients that ask about ever new transactions, each once, until the transformer is gone."""

    def __init__(self, port: int, numbers: Iterator[int]) -> None:
        self.answered: list[int] = []
        self._port, self._numbers = port, numbers
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def until(self, count: int) -> None:
        ends = time.monotonic() + PATIENCE_S
        while len(self.answered) < count:
            assert time.monotonic() < ends, f"{len(self.answered)} answers of {count}"
            time.sleep(0.005)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(PATIENCE_S)

    def _ask(self) -> None:
        client = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        try:
            while True:
                number = next(self._numbers)
                client.request("POST", f"/v1/models/{NAME}:predict", servers.v1_transaction(number))
                answer = client.getresponse()
                said = json.loads(answer.read())
                assert answer.status == 200, said
                self.answered.append(number)
        except (OSError, http.client.HTTPException, json.JSONDecodeError):
            client.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("home")
    servers.small_world(made, HISTORY_LENGTH)
    return made


def test_every_answer_is_in_the_log_once_whatever_is_killed(home, tiny_model):
    model = tiny_model("killed-servers", history_length=HISTORY_LENGTH, every_input=True)
    environment = {"MILLRACE_HOME": str(home), "MILLRACE_HISTORY_LENGTH": str(HISTORY_LENGTH), "MODEL_VERSION": "1"}
    environment["MILLRACE_LOG_RETENTION_DAYS"] = "0"  # events are of 2018
    ready, named = f"/v2/models/{NAME}/ready", f"--model_name={NAME}"
    log = ("serving.prediction_log.server", "/readyz", home)
    answered: list[int] = []
    numbers = itertools.count(1)

    with servers.running("serving.predictor.server", ready, home, named, f"--model_dir={model}", **environment) as one:
        at = f"--predictor_host=127.0.0.1:{one.port}"
        for _ in range(LIVES):
            with (
                servers.running(*log, **environment) as writer,
                servers.running("serving.transformer.server", ready, home, named, at, **environment) as path,
            ):
                load = Load(path.port, numbers)
                load.until(ANSWERS // 2)
                writer.process.kill()
                load.until(ANSWERS)
                path.process.kill()
                load.join()
                answered += load.answered
    with servers.running(*log, **environment):
        everything_taken(home)

    stored = read_predictions(engine(Settings(home=home)), "fraud", columns=["transaction_id", "prediction_id"])
    times = Counter(stored["transaction_id"].to_pylist())
    assert len(answered) >= LIVES * ANSWERS
    assert [number for number in answered if times[number] != 1] == []
    assert len(set(stored["prediction_id"].to_pylist())) == stored.num_rows


def everything_taken(home: Path) -> None:
    stream = open_stream(Settings(home=home))
    ends = time.monotonic() + PATIENCE_S
    while any(stream.lag(group).events for group in GROUPS):
        assert time.monotonic() < ends, "the log does not catch up"
        time.sleep(0.05)
    assert [stream.lag(group).refused for group in GROUPS] == [0, 0]
    stream.close()
