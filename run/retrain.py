"""Run one retraining on this machine and record what came of it: `python -m run.retrain --reason …`.

The steps are in `pipelines.retraining`; when to retrain is `serving/retraining_trigger`'s business.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from components.ingest.core import source_version
from millrace.errors import MillraceError, NotFound
from millrace.installed import load
from millrace.lake.atomic import exclusive
from millrace.observe.progress import log
from millrace.registry.mlflow_home import experiment_id, mlflow_client
from millrace.registry.models import Registry, served
from millrace.registry.retraining import (
    DECLINED,
    FAILED,
    PROMOTED,
    Outcome,
    columns_of,
    lock_path,
    now,
    outcome_of,
    source_of,
)
from millrace.settings import Settings, settings
from pipelines.retraining import retraining
from run.asked import require_valid
from run.local import LocalRun, PipelineBlocked, PipelineFailed, run_local
from run.loop import overrides
from run.source import add_gates, add_workload, gates, profile_of

FIRST_STEP_PERCENT: Final = 10
STATUS: Final = {PROMOTED: 0, DECLINED: 4, FAILED: 1}
"""Outcome → exit status."""


def retrain(here: Settings, reason: str, identity: str, arguments: dict[str, Any]) -> Outcome:
    """Run one retraining to its end and record it. One at a time: raises AlreadyRunning for a second one.

    Another pipeline run in the home is waited for: a monitoring run, as a rule, whose alarm it follows.

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
        given: dict[str, Any] = {
            "source": source,
            "source_version": source_version(source),
            "champion": champion.artifact_id,
            "columns": columns_of(here, champion),
        }
        given["workload"] = here.workload
        given["profile"] = profile_of(source, here)
        require_valid(load(here.workload), given | arguments)
        log("retraining", id=identity, reason=reason, champion=champion.version)
        # On a cluster the controller begins every new canary itself.
        given["canary_percent"] = here.canary_percent or FIRST_STEP_PERCENT
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
        done: LocalRun = run_local(retraining, arguments, here, patient=True)
    except PipelineBlocked as blocked:
        return DECLINED, blocked.refusal.sentence, None
    except PipelineFailed as failed:
        return FAILED, failed.cause, None
    promotion = done.outputs["promotion"].facts
    return PROMOTED, f"version {promotion['model_version']} is {promotion['alias']}", int(promotion["model_version"])


def record(result: Outcome, here: Settings) -> None:
    """In the audit log, in MLflow, and as a file, which is written last: with it, the retraining has ended."""
    facts = {"event_id": result.id, "outcome": result.outcome, "detail": result.detail, "reason": result.reason}
    Registry(here).note("retrain", from_version=result.champion, to_version=result.challenger, **facts)
    _track(result, here)
    result.write(here.home)
    log("retraining: ended", id=result.id, outcome=result.outcome, challenger=result.challenger)


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
        here = settings(options.workload)
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
    return given | overrides(options.overrides or here.retraining_overrides) | gates(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m run.retrain", description=__doc__)
    parser.add_argument("--reason", required=True, help="why; kept in the audit log and in MLflow")
    parser.add_argument("--event-id", default="", help="of what asked for it; the same one is done once")
    parser.add_argument(
        "--source",
        default="",
        help="raw events (default: MILLRACE_RETRAINING_SOURCE, or what the champion's came from)",
    )
    parser.add_argument("--as-of", default="end", help="instant the run speaks from (default: end of the last day)")
    parser.add_argument("--train-days", type=int, help="training window (default: MILLRACE_RETRAINING_TRAIN_DAYS)")
    parser.add_argument("--overrides", type=Path, help="YAML as `make run` takes (MILLRACE_RETRAINING_OVERRIDES)")
    add_gates(parser)
    add_workload(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
