"""Commands as a user types them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from millrace.cli import main
from millrace.events.log import engine, migrate, write_predictions
from millrace.lake.manifest import Manifest, hash_files
from millrace.registry.models import Registry
from millrace.settings import Settings

SERVED = """\
metadata: {{annotations: {{millrace.io/model-version: "{0}"}}}}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions: the first champion, the second challenger. Tests that change it change it back."""
    home = tmp_path_factory.mktemp("home")
    registry = Registry(Settings(home=home))
    for identity in ("aaaa" * 4, "bbbb" * 4):
        version = registry.register(identity, {"snapshot": "s1"}).version
        folder = registry.folder(version)
        folder.mkdir(parents=True)
        (folder / "model.json").write_text("{}")
        Manifest(kind="model", id=identity, workload="fraud", uri=str(folder), files=hash_files(folder)).write()
        registry.rendered_path(version).write_text(SERVED.format(version))
        registry.admit(version, snapshot="s1", run="r1")
    return home


@pytest.fixture(autouse=True)
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_HOME", str(home))


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(arguments)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_champion_shows_what_is_served(capsys: pytest.CaptureFixture[str]):
    status, out, _ = run(capsys, "champion")

    assert status == 0
    assert "fraud-detector version 1 (model aaaaaaaaaaaaaaaa) at file://" in out
    assert out.count("\n") == 1


def test_a_workload_that_is_named_is_the_one_that_is_shown(capsys: pytest.CaptureFixture[str]):
    status, out, _ = run(capsys, "models", "--workload", "trips")

    assert status == 0
    assert "trip-duration" in out
    assert "aaaaaaaaaaaaaaaa" not in out


def test_models_lists_every_version_with_its_alias(capsys: pytest.CaptureFixture[str]):
    _, table, _ = run(capsys, "models")
    _, document, _ = run(capsys, "models", "--json")

    assert "challenger" in table
    assert "champion" in table
    assert [(item["version"], item["aliases"]) for item in json.loads(document)] == [
        (2, ["challenger"]),
        (1, ["champion"]),
    ]


def test_promote_and_rollback_swap_and_are_recorded(capsys: pytest.CaptureFixture[str]):
    promoted = run(capsys, "promote", "2", "--reason", "it is better")
    champion = json.loads(run(capsys, "champion", "--json")[1])
    rolled_back = run(capsys, "rollback", "--reason", "alerts tripled")
    records = json.loads(run(capsys, "audit", "--json")[1])

    assert promoted[0] == rolled_back[0] == 0
    assert "champion of fraud-detector is version 2" in promoted[1]
    assert champion["version"] == 2
    assert "champion of fraud-detector is version 1" in rolled_back[1]
    assert [(r["action"], r.get("reason")) for r in records[-2:]] == [
        ("make_champion", "it is better"),
        ("rollback", "alerts tripled"),
    ]
    assert "alerts tripled" in run(capsys, "audit")[1]


def test_lineage_prints_a_tree_or_json(capsys: pytest.CaptureFixture[str]):
    _, text, _ = run(capsys, "lineage", "1")
    _, document, _ = run(capsys, "lineage", "1", "--json")

    assert "model aaaaaaaaaaaaaaaa" in text
    assert json.loads(document)["from"][0]["id"] == "aaaaaaaaaaaaaaaa"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lineage", "nothing"), "is called 'nothing'"),
        (("promote", "9"), "has no version 9"),
    ],
)
def test_an_error_is_one_message_without_a_traceback(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
):
    status, out, err = run(capsys, *arguments)

    assert status == 1
    assert out == ""
    assert err.startswith("millrace: ")
    assert message in err
    assert "Traceback" not in err


def test_a_fresh_home_says_what_to_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path))

    status, _, err = run(capsys, "champion")

    assert status == 1
    assert "Run `make run`" in err


def test_a_wrong_setting_is_status_2(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MILLRACE_THREADS", "none")

    status, _, err = run(capsys, "champion")

    assert status == 2
    assert "MILLRACE_THREADS" in err


@pytest.mark.parametrize("arguments", [(), ("promote",), ("promote", "two"), ("frobnicate",)])
def test_wrong_usage_is_status_2(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]):
    with pytest.raises(SystemExit) as error:
        main(arguments)

    assert error.value.code == 2


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as error:
        main(["--help"])

    assert error.value.code == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("champion", "models", "lineage", "audit", "promote", "rollback"))


def test_lineage_of_a_prediction_leads_to_the_version_that_made_it(home: Path, capsys: pytest.CaptureFixture[str]):
    log = engine(Settings(home=home))
    migrate(log)
    row = {"prediction_id": "request-9:0", "event_id": 77, "model_version": "2", "scored_at": datetime.now(UTC)}
    write_predictions(log, [row | {"workload": "fraud"}])
    log.dispose()

    status, out, _ = run(capsys, "lineage", "request-9", "--json")
    by_transaction = run(capsys, "lineage", "77", "--json")
    unknown = run(capsys, "lineage", "request-10")

    node = json.loads(out)
    assert (status, node["kind"], node["from"][0]["kind"], node["from"][0]["id"]) == (
        0,
        "prediction",
        "model version",
        "2",
    )
    assert by_transaction[0] == 0
    assert unknown[0] == 1
    assert "No prediction has that id either" in unknown[2]
