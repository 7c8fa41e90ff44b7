"""Which folds a backtest runs, and what it refuses before spending compute."""

from datetime import date
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from millrace.errors import InvalidInput
from millrace.lake.manifest import Manifest
from run.backtest import BacktestConfig, Fold, main, show, write_scores

SNAPSHOT = Manifest(
    kind="snapshot", id="a", workload="fraud", uri=".", facts={"first_day": "2018-04-01", "last_day": "2018-09-30"}
)


def a_fold(first: int) -> Fold:
    ids = np.arange(first, first + 3)
    return Fold(date(2018, 7, 25), ids, {"score": np.float32([0.1, 0.2, 0.3])}, {"rows": 3, "AP": 0.5})


def test_folds_are_a_week_apart() -> None:
    config = BacktestConfig(first_test_day=date(2018, 7, 25), folds=3)

    assert config.test_starts == [date(2018, 7, 25), date(2018, 8, 1), date(2018, 8, 8)]


def test_the_last_fold_that_the_data_holds_is_accepted() -> None:
    config = BacktestConfig(first_test_day=date(2018, 9, 24), folds=1)

    config.require_within(SNAPSHOT)

    assert config.test_starts == [date(2018, 9, 24)]


@pytest.mark.parametrize(
    "config",
    [
        BacktestConfig(first_test_day=date(2018, 9, 25), folds=1),
        BacktestConfig(first_test_day=date(2018, 5, 5), folds=1),
        BacktestConfig(first_test_day=date(2018, 7, 25), folds=1, train_days=200),
    ],
    ids=["ends after the data", "starts before the data", "asks for more training days than there are"],
)
def test_folds_outside_the_data_are_refused(config: BacktestConfig) -> None:
    with pytest.raises(InvalidInput, match="the data holds 2018-04-01 … 2018-09-30"):
        config.require_within(SNAPSHOT)


def test_one_window_may_have_any_length() -> None:
    month = BacktestConfig(first_test_day=date(2018, 9, 1), folds=1, test_days=30, train_days=24)

    month.require_within(SNAPSHOT)

    with pytest.raises(InvalidInput, match="2018-08-01 … 2018-10-01"):
        BacktestConfig(first_test_day=date(2018, 9, 1), folds=1, test_days=31, train_days=24).require_within(SNAPSHOT)


@pytest.mark.parametrize(("name", "value"), [("folds", 0), ("train_days", 0), ("test_days", -1)])
def test_a_backtest_of_nothing_is_refused(name: str, value: int) -> None:
    with pytest.raises(InvalidInput, match=f"{name} is {value}"):
        BacktestConfig(first_test_day=date(2018, 7, 25), **{name: value})


def test_scores_of_all_folds_are_one_file(tmp_path: Path) -> None:
    write_scores([a_fold(10), a_fold(20)], "transaction_id", tmp_path / "scores.parquet")

    table = pq.read_table(tmp_path / "scores.parquet")
    assert table.column_names == ["fold", "transaction_id", "score"]
    assert table["fold"].to_pylist() == [0, 0, 0, 1, 1, 1]
    assert table["transaction_id"].to_pylist() == [10, 11, 12, 20, 21, 22]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "x.csv", "--from", "last week"], "wanted YYYY-MM-DD"),
        (["--data", "", "--from", "2018-07-25"], "no data named"),
        (["--data", "x.csv", "--from", "2018-07-25", "--column-map", "amount"], "wanted raw=ours"),
        (["--data", "no-such-file.csv", "--from", "2018-07-25"], "does not exist"),
    ],
)
def test_wrong_words_get_one_clear_message(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path))

    status = main(arguments)

    assert status == 1
    assert message in capsys.readouterr().err


def test_figures_of_folds_are_shown_with_their_mean(capsys: pytest.CaptureFixture[str]) -> None:
    show([a_fold(10), a_fold(20)])

    shown = capsys.readouterr().out
    assert shown.count("0.500") == 3
    assert "AP" in shown
