"""Settings: defaults that work, errors that name the variable, a key that nobody else can read."""

import stat
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import EntryPoint
from pathlib import Path
from threading import Barrier

import pytest

from millrace import packaged as workloads
from millrace.errors import ConfigError
from millrace.installed import Workload, load
from millrace.settings import Settings, settings


def test_a_wrong_value_names_the_variable_and_what_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_HISTORY_LENGTH", "many")

    with pytest.raises(ConfigError, match="MILLRACE_HISTORY_LENGTH is 'many'"):
        settings()


def test_the_environment_overrides_a_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path))

    assert settings().lake == tmp_path / "lake"
    assert settings().tracking_uri == f"sqlite:///{tmp_path}/mlflow/mlflow.db"


def test_a_workload_that_is_named_goes_before_the_environment(
    monkeypatch: pytest.MonkeyPatch, machines: Workload
) -> None:
    monkeypatch.setenv("MILLRACE_WORKLOAD", "fraud")

    assert settings().workload == "fraud"
    assert settings(machines.name).workload == machines.name


@pytest.mark.parametrize(
    ("installed", "chosen", "wanted"),
    [("ab", "b", "b"), ("ab", "", ""), ("a", "", "a"), ("ab", "ba", "a"), ("", "", "")],
)
def test_the_workload_where_none_is_named_is_the_installations_choice_or_the_only_one(
    monkeypatch: pytest.MonkeyPatch, installed: str, chosen: str, wanted: str
) -> None:
    groups = {workloads.GROUP: installed, workloads.DEFAULT_GROUP: chosen}
    monkeypatch.setattr(workloads, "entry_points", lambda group: [EntryPoint(x, x, group) for x in groups[group]])

    assert workloads.default_name() == wanted


def test_no_workload_at_all_is_an_error_that_says_how_to_name_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MILLRACE_WORKLOAD", raising=False)
    monkeypatch.setattr(workloads, "entry_points", lambda group: [])

    with pytest.raises(ConfigError, match="Name one of them"):
        settings()


def test_a_key_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    first = Settings(home=tmp_path).pseudonym_secret()

    assert Settings(home=tmp_path).pseudonym_secret() == first
    assert len(first) == 64
    assert stat.S_IMODE((tmp_path / "pseudonym.key").stat().st_mode) == 0o600


def test_a_key_from_the_environment_is_used_and_never_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MILLRACE_PSEUDONYM_KEY", "top-secret")
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path))

    assert settings().pseudonym_secret() == b"top-secret"
    assert "top-secret" not in repr(settings()) + settings().model_dump_json()
    assert not (tmp_path / "pseudonym.key").exists()


def test_many_who_ask_at_once_for_a_key_get_the_same_whole_one(tmp_path: Path) -> None:
    rounds = [tmp_path / str(number) for number in range(50)]
    with ThreadPoolExecutor(8) as pool:
        barrier = Barrier(8)

        def ask(home: Path) -> bytes:
            barrier.wait()
            return Settings(home=home).pseudonym_secret()

        for home in rounds:
            keys = set(pool.map(ask, [home] * 8))
            assert len(keys) == 1
            assert len(keys.pop()) == 64
            assert [path.name for path in home.iterdir()] == ["pseudonym.key"]


@pytest.mark.parametrize("key", ["", " \n"])
def test_an_empty_key_is_refused_wherever_it_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key: str) -> None:
    (tmp_path / "pseudonym.key").write_text(key)
    with pytest.raises(ConfigError, match=r"pseudonym\.key is empty"):
        Settings(home=tmp_path).pseudonym_secret()

    monkeypatch.setenv("MILLRACE_PSEUDONYM_KEY", key)
    with pytest.raises(ConfigError, match="MILLRACE_PSEUDONYM_KEY is empty"):
        Settings(home=tmp_path).pseudonym_secret()


def test_a_relative_home_means_the_same_place_from_everywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)

    assert Settings(home=Path("here")).lake == tmp_path / "here" / "lake"
    assert Settings().home == tmp_path / ".millrace"


def test_the_model_name_of_one_workload_is_not_anothers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_MODEL_NAME", "my-detector")

    assert settings("fraud").model_name == "my-detector"
    assert settings("trips").model_name == load("trips").model_name


def test_pages_of_two_workloads_in_one_home_lie_apart(tmp_path: Path) -> None:
    one, other = (Settings(home=tmp_path, workload=name) for name in ("fraud", "trips"))

    assert one.reports != other.reports
    assert one.reports.parent == other.reports.parent
