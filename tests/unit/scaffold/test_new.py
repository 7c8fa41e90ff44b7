"""`millrace new`: what a table is taken for, what is asked, what is written, and that it works at once."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from millrace.errors import InvalidInput, NotFound
from millrace.scaffold.guess import columns_of, guess
from millrace.scaffold.new import new, settled
from millrace.scaffold.options import add_options
from millrace.scaffold.render import field_name

ROOT = Path(__file__).parents[3]
Options = Callable[..., argparse.Namespace]


@pytest.fixture
def options(tables: dict[str, Path], tmp_path: Path) -> Options:
    """`options(table, *more)` as a command line gives them."""

    def parsed(table: str, *more: str) -> argparse.Namespace:
        parser = argparse.ArgumentParser()
        add_options(parser)
        given = [table, "--data", str(tables[table]), "--into", str(tmp_path / table), "--no-install", *more]
        return parser.parse_args(given)

    return parsed


def written(table: str, options: argparse.Namespace) -> Path:
    return new(options, Console(quiet=True)) / "src" / table


def test_a_table_whose_columns_are_sure_leaves_no_question(tables: dict[str, Path]) -> None:
    found, questions = guess(columns_of(tables["churn"]), {})

    assert questions == []
    assert (found.time, found.label, found.task) == ("contact_time", "churned", "classification")
    assert (found.id, found.keys, found.numbers) == ("contact_id", ("client_id",), ("tenure months",))
    assert found.categories == {"Plan": ("basic", "plus", "pro")}


def test_an_id_is_made_where_no_column_is_one(tables: dict[str, Path], options: Options) -> None:
    found, _ = guess(columns_of(tables["sensor"]), {})

    text = (written("sensor", options("sensor")) / "schema.py").read_text()

    assert found.id == ""
    assert 'sql="hash(event_timestamp, machine, vibration, mode) >> 1"' in text


def test_two_columns_that_may_be_the_label_are_asked_about_and_nothing_is_written(options: Options) -> None:
    asked = options("demand")

    with pytest.raises(InvalidInput, match=r"--label COLUMN: the label has 2 candidates: price, units_sold"):
        new(asked, Console(quiet=True))

    assert not asked.into.exists()


def test_somebody_who_can_be_asked_is(options: Options) -> None:
    found = settled(options("demand"), lambda question: "units_sold" if "price" in question else "")

    assert (found.label, found.task, found.numbers) == ("units_sold", "regression", ("price",))


def test_an_answer_on_the_command_line_is_no_question(options: Options) -> None:
    found = settled(options("demand", "--label", "units_sold", "--key", "store_id", "--ignore", "price"), None)

    assert found.keys == ("store_id",)
    assert "price" in found.left_out
    assert found.numbers == ()


@pytest.mark.parametrize(
    ("more", "named"),
    [(["--label", "colour"], "no column 'colour'"), (["--delay-days", "-1"], "--delay-days is -1")],
)
def test_what_cannot_be_is_refused_by_name(more: list[str], named: str, options: Options) -> None:
    with pytest.raises(InvalidInput, match=named):
        new(options("churn", *more), Console(quiet=True))


def test_a_file_that_is_not_there_or_is_no_table_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"no parquet")
    empty = tmp_path / "empty.csv"
    empty.write_text("a,b\n")

    with pytest.raises(NotFound, match=r"nowhere\.csv"):
        columns_of(tmp_path / "nowhere.csv")
    with pytest.raises(InvalidInput, match=r"broken\.parquet cannot be read"):
        columns_of(broken)
    with pytest.raises(InvalidInput, match=r"empty\.csv has no rows"):
        columns_of(empty)


def test_a_workload_that_is_installed_and_a_folder_that_is_there_are_left_alone(options: Options) -> None:
    taken = options("churn")
    taken.name = "fraud"
    with pytest.raises(InvalidInput, match="there is a workload 'fraud' already"):
        new(taken, Console(quiet=True))

    again = options("churn")
    again.into.mkdir()
    with pytest.raises(InvalidInput, match="is there already"):
        new(again, Console(quiet=True))


@pytest.mark.parametrize(
    ("column", "field"),
    [("Tenure Months", "tenure_months"), ("2nd", "c_2nd"), ("class", "class_"), (" % ", "column"), ("Größe", "größe")],
)
def test_any_column_has_a_name_that_python_takes(column: str, field: str) -> None:
    assert field_name(column) == field
    assert field.isidentifier()


@pytest.mark.parametrize("table", ["churn", "sensor", "demand"])
def test_what_is_written_passes_its_own_tests(table: str, options: Options, tmp_path: Path) -> None:
    answers = ["--label", "units_sold"] if table == "demand" else []
    package = written(table, options(table, *answers)).parents[1]

    environment = os.environ | {"PYTHONPATH": os.pathsep.join(installed(package, table, tmp_path / "site"))}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull]
    run = subprocess.run(
        [*command, "--rootdir", str(package), str(package / "tests")], env=environment, capture_output=True, text=True
    )

    assert run.returncode == 0, run.stdout + run.stderr
    assert "10 passed" in run.stdout


def installed(package: Path, name: str, site: Path) -> list[str]:
    """Folders on whose path a package is as if it had been installed: its code, and its entry point."""
    metadata = site / f"{name}-0.1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
    (metadata / "entry_points.txt").write_text(f"[millrace.workloads]\n{name} = {name}\n")
    return [str(package / "src"), str(site), str(ROOT / "src"), str(ROOT)]
