"""Submitting, against a small HTTP server that keeps what KFP's API keeps; the client is kfp's own."""

from __future__ import annotations

import pytest
import yaml
from kfp_api import Host, kfp_api

from components.image import IMAGE
from millrace.errors import NotFound, Unavailable
from run import kfp_host, submit
from run.compile import COMPILED


@pytest.fixture
def host(monkeypatch):
    monkeypatch.setattr(kfp_host, "POLL_S", 0.01)
    monkeypatch.setattr(kfp_host.wait, "__kwdefaults__", {"poll_s": 0.01})
    with kfp_api() as server:
        server.states = ["RUNNING", "SUCCEEDED"]
        yield server


def submitted(host: Host, *arguments: str) -> int:
    return submit.main(["training", "--host", host.url, "--param", "source=s3://lake/raw", *arguments])


def test_a_run_is_started_followed_and_its_page_named(host, capsys):
    status = submitted(host, "--param", "train_days=56")

    assert status == 0
    (run,) = host.kept["runs"]
    assert run["runtime_config"]["parameters"] == {"source": "s3://lake/raw", "train_days": 56}
    shown = "".join(capsys.readouterr())
    assert f"{host.url}/#/runs/details/runs-1" in shown
    assert "step=train state=RUNNING" in shown
    assert "run succeeded" in shown


def test_the_uploaded_package_is_the_committed_one(host):
    submitted(host)

    (version,) = host.kept["versions"]
    assert "millrace-training" in version["_package"]
    assert "millrace-pseudonym" in version["_package"]


def test_another_image_is_compiled_into_a_package_of_its_own(tmp_path, capsys):
    package = tmp_path / "package.yaml"

    dry = ["--dry-run", "--param", "source=s3://lake/raw", "--image", "registry/steps:7", "--package", str(package)]
    assert submit.main(["training", *dry]) == 0

    compiled = next(yaml.safe_load_all(package.read_text()))["deploymentSpec"]["executors"].values()
    committed = (COMPILED / "training.yaml").read_text()
    assert {executor["container"]["image"] for executor in compiled} == {"registry/steps:7"}
    assert package.read_text().replace("registry/steps:7", IMAGE) == committed


def test_the_same_package_is_uploaded_once_and_its_experiment_made_once(host):
    submitted(host)
    submitted(host)

    kept = {kind: len(documents) for kind, documents in host.kept.items()}
    assert kept == {"pipelines": 1, "versions": 1, "experiments": 1, "runs": 2, "recurringRuns": 0}


def test_a_schedule_replaces_the_one_of_the_same_name(host):
    submitted(host, "--cron", "0 0 3 * * *")
    submitted(host, "--cron", "0 0 4 * * *")

    (schedule,) = host.kept["recurringRuns"]
    assert schedule["trigger"]["cron_schedule"]["cron"] == "0 0 4 * * *"
    assert int(schedule["max_concurrency"]) == 1
    assert host.kept["runs"] == []


def test_a_failed_run_names_the_step_and_why(host, capsys):
    host.states = ["RUNNING", "FAILED"]

    assert submitted(host) == 1

    assert "train (out of memory)" in capsys.readouterr().err


def test_a_run_that_takes_too_long_is_left_running(host, capsys):
    host.states = ["RUNNING"]

    assert submitted(host, "--timeout", "0.05") == 1

    assert "it goes on" in capsys.readouterr().err


def test_no_wait_returns_at_once(host):
    host.states = ["RUNNING"]

    assert submitted(host, "--no-wait") == 0


def test_an_expired_token_says_how_to_get_one(host, capsys, monkeypatch):
    host.token = "fresh"
    monkeypatch.setenv("MILLRACE_KFP_TOKEN", "stale")

    assert submitted(host) == 1

    error = capsys.readouterr().err
    assert "401" in error
    assert "kubectl create token" in error
    assert "stale" not in error


def test_the_token_and_the_session_reach_the_host(host, monkeypatch):
    host.token = "fresh"
    monkeypatch.setenv("MILLRACE_KFP_TOKEN", "fresh")
    monkeypatch.setenv("MILLRACE_KFP_COOKIES", "authservice_session=abc")

    assert submitted(host) == 0

    assert set(host.cookies) == {"authservice_session=abc"}


def test_an_unreachable_host_says_what_to_do(capsys):
    assert submit.main(["training", "--host", "http://127.0.0.1:9", "--param", "source=x"]) == 1

    assert "kubectl port-forward" in capsys.readouterr().err


def test_a_dry_run_sends_nothing(host):
    assert submitted(host, "--dry-run") == 0

    assert not host.cookies


def test_reports_of_the_run_are_fetched_from_the_pipeline_root(host, tmp_path):
    made = tmp_path / "root" / "millrace-training" / "runs-1" / "evaluate" / "0f3a"
    made.mkdir(parents=True)
    (made / "html").write_text("<html>judged</html>")
    (made / "evaluation").write_text("{}")

    written = kfp_host.fetch(str(tmp_path / "root"), "runs-1", frozenset({"html"}), tmp_path / "reports")

    assert [path.name for path in written] == ["evaluate-html.html"]
    assert written[0].read_text() == "<html>judged</html>"


def test_a_root_without_the_run_is_named(tmp_path):
    with pytest.raises(NotFound, match="nothing of run runs-9"):
        kfp_host.fetch(str(tmp_path), "runs-9", frozenset({"html"}), tmp_path / "reports")


def test_an_answer_of_an_error_is_passed_on(host):
    with pytest.raises(Unavailable, match="answered 404"), kfp_host.answering(host.url):
        kfp_host.connect(host.url, namespace=None, ca_cert=None, verify_tls=True).get_pipeline("gone")
