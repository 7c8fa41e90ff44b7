"""Versions, aliases and what a change leaves behind."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pytest

from millrace.errors import AlreadyRunning, ArtifactCorrupt, InvalidInput, NotFound, Unavailable
from millrace.lake.atomic import exclusive
from millrace.registry import audit
from millrace.registry.models import CHALLENGER, CHAMPION, PREVIOUS, ModelVersion, Registry, served
from millrace.settings import Settings

Register = Callable[[str], ModelVersion]


def test_an_empty_registry_has_no_champion(registry: Registry, settings: Settings):
    assert registry.current(CHAMPION) is None
    assert registry.versions() == []
    assert served(settings) is None


def test_registering_an_artifact_twice_gives_one_version(registry: Registry):
    first = registry.register("a", {"snapshot": "s1"})
    again = registry.register("a", {"snapshot": "s1"})

    assert first == again
    assert first.version == 1
    assert first.source == registry.folder(1).as_uri()
    assert first.tags == {"artifact_id": "a", "snapshot": "s1"}


def test_the_first_version_becomes_champion_and_later_ones_challenger(registry: Registry, register: Register):
    aliases = [registry.admit(register(name).version).aliases for name in "abc"]

    assert aliases == [(CHAMPION,), (CHALLENGER,), (CHALLENGER,)]
    assert registry.aliases() == {CHAMPION: 1, CHALLENGER: 3}
    assert registry.served_path.read_text() == "version 1"


def test_admitting_a_version_again_changes_nothing(registry: Registry, register: Register):
    register("a"), register("b")
    registry.admit(1), registry.admit(2)
    registry.make_champion(2)
    before = registry.audit_path.read_bytes()

    registry.admit(1)
    registry.admit(2)

    assert registry.aliases() == {CHAMPION: 2, PREVIOUS: 1}
    assert registry.audit_path.read_bytes() == before


def test_making_a_challenger_champion_keeps_the_old_one_as_previous(registry: Registry, register: Register):
    for name in "ab":
        registry.admit(register(name).version)

    registry.make_champion(2, reason="better on slices")

    assert registry.aliases() == {CHAMPION: 2, PREVIOUS: 1}
    assert registry.served_path.read_text() == "version 2"


def test_making_the_champion_champion_is_nothing(registry: Registry, register: Register):
    registry.admit(register("a").version)
    before = registry.audit_path.read_bytes()

    registry.make_champion(1)

    assert registry.audit_path.read_bytes() == before


def test_a_rollback_swaps_and_a_second_one_swaps_back(registry: Registry, register: Register):
    for name in "ab":
        registry.admit(register(name).version)
    registry.make_champion(2)

    rolled_back = registry.rollback("alerts tripled")
    aliases, text = registry.aliases(), registry.served_path.read_text()
    registry.rollback()

    assert rolled_back.version == 1
    assert aliases == {CHAMPION: 1, PREVIOUS: 2}
    assert text == "version 1"
    assert registry.aliases() == {CHAMPION: 2, PREVIOUS: 1}


def test_a_rollback_without_a_previous_champion_is_an_error(registry: Registry, register: Register):
    registry.admit(register("a").version)

    with pytest.raises(NotFound, match="no previous champion"):
        registry.rollback()


def test_a_version_whose_files_changed_is_not_served(registry: Registry, register: Register):
    for name in "ab":
        registry.admit(register(name).version)
    (registry.folder(2) / "model.onnx").write_text("something else")

    with pytest.raises(ArtifactCorrupt, match=r"model\.onnx"):
        registry.make_champion(2)

    assert registry.current(CHAMPION).version == 1


def test_an_unknown_version_lists_what_there_is(registry: Registry, register: Register):
    register("a")

    with pytest.raises(NotFound, match=r"no version 7\. Versions there are: 1"):
        registry.make_champion(7)


def test_a_deleted_version_number_is_not_used_again(registry: Registry, register: Register):
    register("a"), register("b")
    registry._store.client.delete_model_version(registry.name, "2")

    version = registry.register("c", {})

    assert version.version > 2
    assert version.source == registry.folder(version.version).as_uri()


def test_the_audit_log_says_who_what_when_from_where_and_why(registry: Registry, register: Register):
    registry.admit(register("a").version, run="r1", snapshot="s1", verdicts={"evaluation": True}, reason="")
    registry.admit(register("b").version, run="r2")
    registry.make_champion(2, reason="it is better")
    registry.rollback("it was not")
    registry.refuse("c", run="r3", reason="gate 'evaluation' blocked")

    records = registry.history()

    figures = [(r["action"], r.get("from_version"), r.get("to_version"), r.get("reason")) for r in records]
    assert figures == [
        ("promote", None, 1, ""),
        ("promote", 1, 2, None),
        ("make_champion", 1, 2, "it is better"),
        ("rollback", 2, 1, "it was not"),
        ("refuse", None, None, "gate 'evaluation' blocked"),
    ]
    assert records[0]["verdicts"] == {"evaluation": True}
    assert records[0]["run"] == "r1"
    assert all("@" in record["who"] and record["at"].endswith("+00:00") for record in records)


def test_lines_of_the_audit_log_never_change(registry: Registry, register: Register):
    seen = b""
    for name in "abc":
        registry.admit(register(name).version)
        now = registry.audit_path.read_bytes()
        assert now.startswith(seen)
        assert len(now) > len(seen)
        seen = now


@pytest.mark.parametrize("step", ["set_alias", "delete_alias", "append"])
def test_a_promotion_killed_at_any_step_is_finished_by_the_next_run(
    registry: Registry, register: Register, settings: Settings, monkeypatch: pytest.MonkeyPatch, step: str
):
    for name in "ab":
        registry.admit(register(name).version)
    target = audit if step == "append" else registry._store

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(target, step, killed)
    with pytest.raises(KeyboardInterrupt):
        registry.make_champion(2, reason="interrupted")
    monkeypatch.undo()

    again = Registry(settings)
    again.make_champion(2, reason="second try")

    assert again.aliases() == {CHAMPION: 2, PREVIOUS: 1}
    assert again.served_path.read_text() == "version 2"
    assert [r.get("reason") for r in again.history()][2:] == ["interrupted"]


def test_a_rollback_killed_half_way_is_finished_and_not_swapped_twice(
    registry: Registry, register: Register, settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    for name in "ab":
        registry.admit(register(name).version)
    registry.make_champion(2)
    set_alias, calls = registry._store.set_alias, []

    def killed_at_second(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        set_alias(*arguments)

    monkeypatch.setattr(registry._store, "set_alias", killed_at_second)
    with pytest.raises(KeyboardInterrupt):
        registry.rollback()

    rolled_back = Registry(settings).rollback()

    assert rolled_back.version == 1
    assert rolled_back.aliases == (CHAMPION,)
    assert registry.current(PREVIOUS).version == 2


def test_two_changes_at_once_do_not_mix(registry: Registry, register: Register):
    registry.admit(register("a").version)

    with exclusive(registry.home / "registry.lock", "test"), pytest.raises(AlreadyRunning, match="registry"):
        registry.rollback()


def _register_many(settings: Settings, names: list[str]) -> None:
    registry = Registry(settings)
    for name in names:
        while True:
            try:
                registry.register(name, {})
                break
            except AlreadyRunning:
                continue


def test_processes_that_register_at_once_get_a_number_each(settings: Settings):
    context = multiprocessing.get_context("fork")
    workers = [
        context.Process(target=_register_many, args=(settings, [f"{worker}{i}" for i in range(4)] + ["shared"]))
        for worker in range(2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)

    versions = Registry(settings).versions()

    assert sorted(item.version for item in versions) == list(range(1, 10))
    assert len({item.artifact_id for item in versions}) == 9


def test_a_registry_that_does_not_answer_is_named(tmp_path: Path):
    (tmp_path / "file").touch()
    settings = Settings(home=tmp_path, mlflow_tracking_uri=f"sqlite:///{tmp_path}/file/mlflow.db")

    with pytest.raises(Unavailable, match=r"file/mlflow\.db does not answer"):
        Registry(settings).versions()


def test_a_refused_challenger_loses_its_alias_and_the_record_says_why(registry: Registry, register: Register):
    for name in "ab":
        registry.admit(register(name).version)

    registry.reject(2, "score PSI 0.9 (limit 0.2)")
    registry.reject(2, "again")

    assert registry.aliases() == {CHAMPION: 1}
    assert registry.was_rejected(2)
    assert not registry.was_rejected(1)
    assert [r["reason"] for r in registry.history() if r["action"] == "reject"] == ["score PSI 0.9 (limit 0.2)"]
    assert registry.served_path.read_text() == "version 1"
    with pytest.raises(InvalidInput, match="is the champion"):
        registry.reject(1, "")
