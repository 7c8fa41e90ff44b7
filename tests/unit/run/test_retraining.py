"""What a retraining says and leaves behind; the steps themselves are the training pipeline's."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from millrace.errors import AlreadyRunning, NotFound
from millrace.judge.gates import Rule, Verdict
from millrace.judge.refusals import Refusal
from millrace.lake.atomic import exclusive
from millrace.registry.models import Served
from millrace.registry.retraining import Outcome, lock_path, now, outcome_of
from millrace.settings import Settings
from run import retrain as program
from run.compile import COMPILED
from run.local import PipelineBlocked, PipelineFailed


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


@pytest.mark.parametrize(("setting", "percent"), [(0, program.FIRST_STEP_PERCENT), (25, 25)])
def test_the_canarys_first_share_is_told_to_the_pipeline_and_to_no_one_else(
    home: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: int, percent: int
) -> None:
    raw = tmp_path / "raw.csv"
    raw.write_text("")
    told: dict[str, Any] = {}
    before = dict(os.environ)
    monkeypatch.setattr(program, "served", lambda _: Served(3, "file:///model", "artifact-3"))
    monkeypatch.setattr(
        program, "_run", lambda arguments, _: told.update(arguments) or ("failed", "stopped here", None)
    )
    monkeypatch.setattr(program, "record", lambda *_: None)

    program.retrain(home.model_copy(update={"canary_percent": setting}), "drift", "a", {"source": str(raw)})

    assert told["canary_percent"] == percent
    assert tasks("retraining")["promote"]["inputs"]["parameters"]["canary_percent"] == {
        "componentInputParameter": "canary_percent"
    }
    assert dict(os.environ) == before


def test_a_gate_that_said_no_is_a_decline_with_its_verdict_and_any_other_end_a_failure(
    home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = Refusal(run="r", message="", verdicts=(Verdict("challenger", (Rule("gain", -0.01, ">", 0),)),))
    ends = [PipelineBlocked("gate-challenger", refusal, Path("a.log")), PipelineFailed("train", "x\nno", Path("a.log"))]

    def run_local(*_: object, patient: bool) -> None:
        raise ends.pop(0)

    monkeypatch.setattr(program, "run_local", run_local)

    declined, failed = (program._run({}, home) for _ in range(2))

    assert declined[:2] == (
        "declined",
        "gate 'challenger' blocked: 1 of 1 rules failed; FAIL  gain: -0.01 (wanted > 0)",
    )
    assert failed[:2] == ("failed", "step 'train' failed: no The whole log: a.log")
