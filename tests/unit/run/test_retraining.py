"""What a retraining says and leaves behind; the steps themselves are the training pipeline's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from millrace.errors import AlreadyRunning, NotFound
from millrace.lake.atomic import exclusive
from millrace.registry.retraining import Outcome, lock_path, now, outcome_of
from millrace.settings import Settings
from run import retrain as program
from run.compile import COMPILED


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path / "home"))
    return Settings()


def tasks(name: str) -> dict[str, dict[str, object]]:
    document = next(yaml.safe_load_all((COMPILED / f"{name}.yaml").read_text()))
    return document["root"]["dag"]["tasks"]


def test_its_steps_are_those_of_training_and_one_gate_more() -> None:
    assert set(tasks("retraining")) - set(tasks("training")) == {"gate-challenger"}
    assert set(tasks("training")) <= set(tasks("retraining"))


def test_nothing_is_promoted_before_the_challenger_has_won() -> None:
    promote = tasks("retraining")["promote"]

    assert {"gate-challenger", "gate-model"} <= set(promote["dependentTasks"])
    assert promote["inputs"]["parameters"]["reason"] == {"componentInputParameter": "reason"}


def test_without_a_champion_there_is_nothing_to_beat(home: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NotFound, match="make run"):
        program.retrain(home, "drift", "a", {})
    assert program.main(["--reason", "drift"]) == 1
    assert "make run" in capsys.readouterr().err


def test_a_second_one_at_the_same_time_is_refused(home: Settings) -> None:
    with exclusive(lock_path(home.home), "another"), pytest.raises(AlreadyRunning):
        program.retrain(home, "drift", "a", {})


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::sqlalchemy.exc.SADeprecationWarning")  # MLflow's
def test_what_came_of_it_is_in_the_audit_log_in_mlflow_and_in_a_file(home: Settings) -> None:
    result = Outcome(id="a", reason="drift: amount", outcome="declined", detail="the champion stays", champion=3,
                     challenger=None, began_at=now(), ended_at=now())  # fmt: skip

    program.record(result, home)

    from mlflow import MlflowClient

    client = MlflowClient(home.tracking_uri)
    (run,) = client.search_runs([client.get_experiment_by_name("retraining").experiment_id])
    record = json.loads((home.home / "audit.jsonl").read_text().splitlines()[-1])
    assert (run.data.tags["outcome"], run.data.tags["reason"]) == ("declined", "drift: amount")
    assert (record["action"], record["event_id"], record["from_version"]) == ("retrain", "a", 3)
    assert outcome_of(home.home, "a") == result


def test_a_gates_message_is_told_without_its_traceback() -> None:
    text = (
        "step 'gate-challenger' failed:\nTraceback (most recent call last):\n  File x\n"
        "millrace.errors.GateBlocked: gate 'challenger' blocked: 1 of 1 rules failed\n"
        "  FAIL  gain_in_average_precision: -0.01 (wanted > 0)\nThe whole log: /x"
    )

    assert program._verdict_of(text) == (
        "gate 'challenger' blocked: 1 of 1 rules failed; FAIL  gain_in_average_precision: -0.01 (wanted > 0)"
    )


def test_a_failed_step_is_told_with_its_last_line() -> None:
    text = "step 'train' failed:\nTraceback (most recent call last):\n  File x\nMemoryError: no\nThe whole log: /x\nRun"

    assert program._cause_of(text) == "step 'train' failed: MemoryError: no The whole log: /x"
