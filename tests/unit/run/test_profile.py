"""Which limits fit a source, and what may be accepted, as people say it."""

import argparse
from pathlib import Path

import pytest

from components.evaluate.config import load_limits
from components.validate.config import ValidateConfig
from millrace.errors import ConfigError, InvalidInput
from millrace.installed import load
from millrace.settings import Settings
from run.source import add_gates, gates, profile_of


def asked(*arguments: str) -> dict[str, object]:
    parser = argparse.ArgumentParser()
    add_gates(parser)
    return gates(parser.parse_args(arguments))


def test_the_simulator_s_limits_are_those_of_its_own_world_alone(tmp_path: Path) -> None:
    here = Settings(home=tmp_path, workload="fraud")

    assert profile_of(str(tmp_path / "raw" / "fraud" / "simulated-1"), here) == "simulated"
    assert profile_of(str(tmp_path / "mine.csv"), here) == ""
    assert profile_of("s3://bucket/raw/fraud", here) == ""


def test_acceptances_have_a_reason_and_may_hold_an_equals_sign() -> None:
    assert asked("--accept", "test_positives=n=12 is enough", "--profile", "simulated") == {
        "accept": {"test_positives": "n=12 is enough"},
        "profile": "simulated",
    }
    with pytest.raises(InvalidInput, match="wanted RULE=REASON"):
        asked("--accept", "test_positives=")


@pytest.mark.parametrize("workload", ["fraud", "trips"])
def test_a_profile_lies_over_the_general_limits_and_below_overrides(workload: str) -> None:
    one = load(workload)

    assert load_limits(one).max_feature_skill is not None
    assert load_limits(one, profile="simulated").max_feature_skill is None
    assert load_limits(one, {"max_feature_skill": 0.5}, profile="simulated").max_feature_skill == 0.5
    assert ValidateConfig.load(one, profile="simulated").min_days == 14
    with pytest.raises(ConfigError, match=r"no profile 'mars'; wanted one of \['simulated'\]"):
        load_limits(one, profile="mars")
