"""Train a challenger, and let it in only if it beats the champion: `python -m pipelines.retraining --reason …`.

The steps are the training pipeline's; one gate more asks for a gain. On a laptop this program runs one retraining and
records what came of it; when to retrain is `serving/retraining_trigger`'s business.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from kfp import dsl

from components.ingest.core import source_version
from millrace.atomic import exclusive
from millrace.errors import MillraceError, NotFound
from millrace.mlflow_home import experiment_id, mlflow_client
from millrace.progress import log
from millrace.registry import Registry, served
from millrace.retraining import DECLINED, FAILED, GATES, PROMOTED, Outcome, lock_path, now, outcome_of, source_of
from millrace.settings import Settings, settings
from pipelines.local import LocalRun, PipelineFailed, run_local
from pipelines.run import overrides
from pipelines.training import Outputs, compose

FIRST_STEP_PERCENT: Final = 10
STATUS: Final = {PROMOTED: 0, DECLINED: 4, FAILED: 1}
"""Outcome → exit status."""


@dsl.pipeline(name="fraud-retraining", description="A challenger, promoted to a canary when it beats the champion.")
def retraining(
    source: str,
    champion: str,
    reason: str,
    source_version: str = "",
    column_map: dict = {},  # noqa: B006  kfp reads defaults from the signature
    timezone: str = "UTC",
    as_of: str = "end",
    train_days: int = 28,
    validate_overrides: dict = {},  # noqa: B006
    train_overrides: dict = {},  # noqa: B006
    evaluate_overrides: dict = {},  # noqa: B006
) -> Outputs:
    """The training pipeline with a champion to beat.

    Args:
        source: CSV or Parquet behind any fsspec URI: a file, a folder or a glob.
        champion: artifact id of the model that serves now.
        reason: why, for the audit log.
        source_version: anything that changes when the source does; part of the cache key.
        column_map: column of the source to column of the schema, where the name is neither ours nor an alias.
        timezone: of timestamps that carry no offset.
        as_of: the instant the run speaks from, ISO 8601; the end of the last day, which has been served already.
        train_days: length of the training window, days.
        validate_overrides: limits of components/validate/validate.yaml to change.
        train_overrides: hyper-parameters of components/train/train.yaml to change.
        evaluate_overrides: limits of components/evaluate/evaluate.yaml to change.
    """
    return compose(
        source=source,
        source_version=source_version,
        column_map=column_map,
        timezone=timezone,
        as_of=as_of,
        train_days=train_days,
        champion=champion,
        validate_overrides=validate_overrides,
        train_overrides=train_overrides,
        evaluate_overrides=evaluate_overrides,
        challenge=reason,
    )


def retrain(here: Settings, reason: str, identity: str, arguments: dict[str, Any]) -> Outcome:
    """Run one retraining to its end and record it. One at a time: raises AlreadyRunning for a second one.

    Raises NotFound when nothing is served: there is no champion to beat, and the first model is `make run`'s.
    """
    with exclusive(lock_path(here.home), f"a retraining in {here.home}"):
        champion = served(here)
        if champion is None:
            raise NotFound(f"nothing is served from {here.home}: no champion to beat. Train the first one: make run")
        known = outcome_of(here.home, identity)
        if known is not None and known.outcome != FAILED:
            log("retraining: done before", id=identity, outcome=known.outcome)
            return known
        began = now()
        source = arguments.pop("source", "") or source_of(here, champion)
        given = {"source": source, "source_version": source_version(source), "champion": champion.artifact_id}
        log("retraining", id=identity, reason=reason, champion=champion.version)
        # Of the steps, which are processes of their own; on a cluster the controller begins every new canary itself.
        os.environ["MILLRACE_CANARY_PERCENT"] = str(here.canary_percent or FIRST_STEP_PERCENT)
        outcome, detail, version = _run({**given, "reason": reason, **arguments}, here)
        result = Outcome(
            id=identity,
            reason=reason,
            outcome=outcome,
            detail=detail,
            champion=champion.version,
            challenger=version,
            began_at=began,
            ended_at=now(),
        )
        record(result, here)
        return result


def _run(arguments: dict[str, Any], here: Settings) -> tuple[str, str, int | None]:
    """(outcome, detail, the challenger's version)."""
    try:
        done: LocalRun = run_local(lambda: retraining, arguments, here)
    except PipelineFailed as error:
        if error.step in GATES:
            return DECLINED, _verdict_of(str(error)), None
        return FAILED, _cause_of(str(error)), None
    promotion = done.outputs["promotion"].facts
    return PROMOTED, f"version {promotion['model_version']} is {promotion['alias']}", int(promotion["model_version"])


def record(result: Outcome, here: Settings) -> None:
    """In the audit log, in MLflow, and as a file, which is written last: with it, the retraining has ended."""
    facts = {"event_id": result.id, "outcome": result.outcome, "detail": result.detail, "reason": result.reason}
    Registry(here).note("retrain", from_version=result.champion, to_version=result.challenger, **facts)
    _track(result, here)
    result.write(here.home)
    log("retraining: ended", id=result.id, outcome=result.outcome, challenger=result.challenger)


def _verdict_of(text: str) -> str:
    """The lines of a gate's message, without the traceback around them."""
    lines = [line.strip() for line in text.splitlines()]
    wanted = [line for line in lines if line.startswith(("FAIL ", "millrace.errors.GateBlocked"))]
    return "; ".join(line.removeprefix("millrace.errors.GateBlocked: ") for line in wanted) or text[:500]


def _cause_of(text: str) -> str:
    """The last line of the traceback and where the log is; the log has the rest."""
    lines = text.splitlines()
    end = next((place for place, line in enumerate(lines) if line.startswith("The whole log:")), len(lines))
    return " ".join([lines[0], *lines[max(end - 1, 1) : end + 1]])


def _track(result: Outcome, here: Settings) -> None:
    client = mlflow_client(here.tracking_uri)
    experiment = experiment_id(client, "retraining", here)
    tags = {name: str(value) for name, value in asdict(result).items()}
    run = client.create_run(experiment, run_name=f"retraining-{result.id[:24]}", tags=tags)
    client.set_terminated(run.info.run_id, "FAILED" if result.outcome == FAILED else "FINISHED")


def main(argv: Sequence[str] | None = None) -> int:
    """0: a challenger goes into its canary; 4: the champion stays; 1: an error."""
    options = _parser().parse_args(argv)
    try:
        here = settings()
        result = retrain(here, options.reason, options.event_id or f"person-{now()}", _arguments(options, here))
    except MillraceError as error:
        print(f"\nretrain: {error}", file=sys.stderr)
        return 1
    if result.outcome == DECLINED:
        print(f"The champion, version {result.champion}, stays: {result.detail}")
    else:
        print(f"{result.outcome}: {result.detail}", file=sys.stderr if result.outcome == FAILED else sys.stdout)
    return STATUS[result.outcome]


def _arguments(options: argparse.Namespace, here: Settings) -> dict[str, Any]:
    given: dict[str, Any] = {"source": options.source, "as_of": options.as_of}
    given["train_days"] = options.train_days or here.retraining_train_days
    return given | overrides(options.overrides or here.retraining_overrides)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipelines.retraining", description=__doc__)
    parser.add_argument("--reason", required=True, help="why; kept in the audit log and in MLflow")
    parser.add_argument("--event-id", default="", help="of what asked for it; the same one is done once")
    parser.add_argument(
        "--source",
        default="",
        help="raw events (default: MILLRACE_RETRAINING_SOURCE, or what the champion's came from)",
    )
    parser.add_argument("--as-of", default="end", help="instant the run speaks from (default: end of the last day)")
    parser.add_argument("--train-days", type=int, help="training window (default: MILLRACE_RETRAINING_TRAIN_DAYS)")
    parser.add_argument("--overrides", type=Path, help="YAML as of pipelines.run (MILLRACE_RETRAINING_OVERRIDES)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
