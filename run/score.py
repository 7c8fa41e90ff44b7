"""Score the rows of a file with the model that serves, without a server: `millrace score FILE`.

Each row gets the score that the endpoint would give it, with the states of its entities as of its own time: from what
the model was made from, and from the file's own earlier rows. No label, no whole day and no gate is needed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from components.score.core import model_to_score_with
from components.score.known import Known, known_before, nothing_known
from components.score.rows import Scorer
from millrace.errors import InvalidInput, MillraceError
from millrace.installed import Workload, load
from millrace.observe.progress import track
from millrace.printing import accept_any_text
from millrace.registry.model_artifact import ModelArtifact
from millrace.settings import Settings, settings
from run.file_rows import SOURCE_FILE, SOURCE_ROW, FileRows, read_rows
from run.score_output import STDOUT, opened, output_of, require_free, write_rejected
from run.source import IngestOptions, absolute

SOME_REJECTED = 3
MOST_EXPLAINED = 20_000
"""Rows of a task without decisions that all get reasons unless it is said which do: each costs several scores."""


@dataclass(frozen=True, slots=True)
class Done:
    """What a file came to."""

    rows: int
    known: int
    rejected: int


def main(argv: Sequence[str] | None = None) -> int:
    """0: every row has a score; 3: some could not be read and are listed; 2: wrong input, 1: another error."""
    accept_any_text()
    parser = _parser()
    options = parser.parse_args(argv)
    if not options.file:
        parser.error("no file to score. Name one: millrace score rows.csv (or make score DATA=rows.csv)")
    try:
        done = _run(settings(options.workload), options)
    except MillraceError as error:
        print(f"score: {error}", file=sys.stderr)
        return 2 if isinstance(error, InvalidInput) else 1
    except KeyboardInterrupt:
        return 130
    return SOME_REJECTED if done.rejected else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="millrace score", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", nargs="?", default="", help="rows: a file, folder, glob or fsspec URI")
    parser.add_argument("-o", "--output", default="", help="*.parquet, *.csv, *.csv.gz or - (default: beside the file)")
    parser.add_argument("--model", default="", help="version of the registry (default: the champion)")
    parser.add_argument("--reasons", choices=["flagged", "all", "none"], default="", help="which rows get reasons")
    parser.add_argument("--no-history", action="store_true", help="know nothing but the file's own earlier rows")
    parser.add_argument("--force", action="store_true", help="overwrite the output")
    IngestOptions.add_to(parser)
    return parser


def _run(here: Settings, options: argparse.Namespace) -> Done:
    began = time.perf_counter()
    source, workload = absolute(options.file), load(here.workload)
    output = output_of(source, options.output)
    require_free(output, force=options.force)
    model, version = model_to_score_with(here, options.model)
    artifact = ModelArtifact.open(model.fetch(), threads=here.threads)

    found = read_rows(source, IngestOptions.of(options).settled(source, workload, labels=False).config(here))
    rejected = _write_rejected(found, output, source)
    if not len(found.good):
        why = ", ".join(f"{reason} {count:,}" for reason, count in found.counts.most_common())
        raise InvalidInput(f"no row can be scored: {why}. They are listed in {rejected}.")

    before, rows = nothing_known(workload), found.good
    if not options.no_history:
        before, rows = known_before(rows, model, here.lake, threads=here.threads, memory_limit_gb=here.memory_limit_gb)
    reasons = _reasons(options.reasons, artifact, len(rows))
    scorer = Scorer(
        artifact=artifact,
        version=version,
        reasons=reasons,
        threads=here.threads,
        memory_limit_gb=here.memory_limit_gb,
    )
    done = _write(scorer, rows, before, output, found)
    _say(workload, done, version, output, time.perf_counter() - began, before)
    if rejected is not None:
        print(
            f"{done.rejected:,} rows could not be read; they are listed with their reasons in {rejected}",
            file=sys.stderr,
        )
    return done


def _write(scorer: Scorer, rows: pa.Table, before: Known, output: str, found: FileRows) -> Done:
    """Answers with where each row stood: its number, and its file where there are several."""
    known = written = 0
    files = len(found.places[SOURCE_FILE].unique())
    told = [SOURCE_ROW] if files == 1 else [SOURCE_FILE, SOURCE_ROW]
    with opened(output) as sink:
        for answers in track(scorer.score(rows, before), "scoring"):
            table = answers.table
            for name in told:
                table = table.append_column(name, found.places[name].take(pa.array(answers.place)))
            sink.write(table)
            known += answers.known
            written += len(table)
    return Done(written, known, sum(found.counts.values()))


def _write_rejected(found: FileRows, output: str, source: str) -> Path | None:
    """Where the rows are listed that could not be read; None when there is none."""
    if not found.rejected:
        return None
    path = Path(f"{output_of(source, '') if output == STDOUT else output}.rejected.csv")
    write_rejected(path, found.rejected)
    return path


def _reasons(asked: str, artifact: ModelArtifact, rows: int) -> str:
    if asked or artifact.spec.decides or rows <= MOST_EXPLAINED:
        return asked or "flagged"
    print(
        f"reasons are left out, for {rows:,} rows would each cost several scores; --reasons all gives them",
        file=sys.stderr,
    )
    return "none"


def _say(workload: Workload, done: Done, version: str, output: str, seconds: float, before: Known) -> None:
    noun = workload.event[done.rows != 1]
    where = "stdout" if output == STDOUT else str(Path(output).absolute())
    print(
        f"{done.rows:,} {noun} scored by version {version} in {seconds:.1f} s, {done.known:,} of them with a known "
        f"state ({len(before.events):,} earlier {workload.event[1]} looked at): {where}",
        file=sys.stderr,
    )


if __name__ == "__main__":
    sys.exit(main())
