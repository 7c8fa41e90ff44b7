"""Retrainings at Kubeflow Pipelines, against a small HTTP server that keeps what its API keeps, by kfp's own client."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kfp_api import Host, kfp_api

from millrace.errors import NotFound, Unavailable
from millrace.judge.gates import Rule, Verdict
from millrace.judge.refusals import Refusal
from millrace.registry.models import Served
from millrace.settings import Settings
from serving.retraining_trigger import kfp_launcher
from serving.retraining_trigger.kfp_launcher import EXPERIMENT, PIPELINE, KfpLauncher, name_of


@pytest.fixture
def host() -> Iterator[Host]:
    """The pipeline is there, in two versions."""
    with kfp_api() as server:
        server.kept["pipelines"].append({"display_name": PIPELINE, "pipeline_id": "p1"})
        server.kept["versions"] += [{"pipeline_version_id": name, "display_name": name} for name in ("v8", "v9")]
        yield server


@pytest.fixture
def launcher(host: Host, home: Settings, monkeypatch: pytest.MonkeyPatch) -> KfpLauncher:
    monkeypatch.setattr(kfp_launcher, "served", lambda _: Served(3, "file:///model", "artifact-3"))
    settings = home.model_copy(update={"kfp_host": host.url, "retraining_source": "s3://lake/raw"})
    return KfpLauncher(settings)


def test_a_run_of_the_newest_version_gets_champion_source_and_reason(launcher: KfpLauncher, host: Host) -> None:
    launcher.start("drift-1", "drift: amount moved")

    (run,) = host.runs
    parameters = run["runtime_config"]["parameters"]
    assert run["display_name"] == name_of("drift-1")
    assert run["pipeline_version_reference"] == {"pipeline_id": "p1", "pipeline_version_id": "v9"}
    assert (parameters["champion"], parameters["source"]) == ("artifact-3", "s3://lake/raw")
    assert parameters["reason"] == "drift: amount moved"
    assert host.kept["experiments"][0]["display_name"] == EXPERIMENT
    assert launcher.status("drift-1").where == "running"


def test_starting_twice_starts_once_and_never_two_at_once(launcher: KfpLauncher, host: Host) -> None:
    launcher.start("a", "")
    launcher.start("a", "")

    with pytest.raises(Unavailable, match="one retraining at a time"):
        launcher.start("b", "")

    assert len(host.runs) == 1


def test_a_run_that_a_gate_refused_is_a_decline_with_its_verdict_and_another_a_failure(
    launcher: KfpLauncher, host: Host, home: Settings
) -> None:
    launcher.start("a", "")
    host.runs[0]["state"] = "FAILED"
    host.failed_steps = [PIPELINE, "train"]

    failed = launcher.status("a")
    verdict = Verdict("challenger", (Rule("gain", -0.25, ">", 0),))
    Refusal(run=host.runs[0]["run_id"], message="", verdicts=(verdict,)).write(home.home)
    declined = launcher.status("a")

    assert (failed.where, failed.outcome) == ("ended", "failed")
    assert "at train" in failed.detail
    assert (declined.where, declined.outcome) == ("ended", "declined")
    assert "gain: -0.25 (wanted > 0)" in declined.detail


def test_one_that_is_given_up_is_terminated_and_an_unknown_one_absent(launcher: KfpLauncher, host: Host) -> None:
    launcher.start("a", "")

    launcher.stop("a")

    assert host.runs[0]["state"] == "CANCELED"
    assert launcher.status("a").outcome == "failed"
    assert launcher.status("b").where == "absent"


def test_a_pipeline_that_was_not_uploaded_is_said(launcher: KfpLauncher, host: Host) -> None:
    host.kept["pipelines"].clear()

    with pytest.raises(NotFound, match="Upload it"):
        launcher.start("a", "")


def test_a_host_that_is_away_is_unavailable(home: Settings) -> None:
    with pytest.raises(Unavailable, match="cannot be reached"):
        KfpLauncher(home.model_copy(update={"kfp_host": "http://127.0.0.1:9"})).status("a")
