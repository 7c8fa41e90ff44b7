"""The whole loop on this machine: `python -m run [--data URI]`, which is `make run`.

Simulated or given events go through the training pipeline, the promoted model goes live on real servers, the day after
the training horizon is replayed through the endpoint and compared with the offline scores, and one page links it all.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.ingest.core import source_version
from millrace.errors import InvalidInput, MillraceError, Unavailable
from millrace.installed import load
from millrace.lake.disk import writing_to
from millrace.lake.manifest import Manifest
from millrace.observe.progress import log
from millrace.printing import accept_any_text
from millrace.registry.model_spec import require_generation
from millrace.registry.models import Registry, served
from millrace.settings import Settings
from millrace.uris import redacted
from run.asked import require_valid
from run.blocked import write_page
from run.local import LocalRun, PipelineBlocked, run_local
from run.source import (
    IngestOptions,
    absolute,
    add_gates,
    add_name,
    document_of,
    gates,
    named,
    profile_of,
    simulated,
)
from run.summary import Summary


def run(data: str, arguments: Mapping[str, Any], settings: Settings, *, live: bool = True) -> Summary:
    """Train on `data` (simulated when empty), serve, replay, write the page; a blocked gate raises PipelineBlocked.

    Then the page says why.
    """
    start = time.perf_counter()
    source = absolute(data) if data else simulated(settings)
    try:
        done = run_pipeline(source, arguments, settings)
    except PipelineBlocked as blocked:
        page = write_page(blocked.refusal, settings.reports)
        log("blocked", page=str(page))
        raise
    replay = go_live(done, settings) if live else None
    summary = Summary(settings.reports, done, replay, time.perf_counter() - start)
    summary.write_page()
    return summary


def run_pipeline(source: str, arguments: Mapping[str, Any], settings: Settings) -> LocalRun:
    """The training pipeline through kfp.local; all that decides its result besides code is among its arguments."""
    from pipelines.training import training  # kfp: not for who only reads `overrides`

    champion = served(settings)
    decided = {
        "source": source,
        "source_version": source_version(source),
        "champion": champion.artifact_id if champion else "",
        "workload": settings.workload,
        "variant": document_of(settings),
        "profile": profile_of(source, settings),
    }
    decided |= arguments
    require_valid(load(settings.workload), decided)
    log(
        "training pipeline",
        **{name: decided[name] for name in ("champion", "workload", "profile")},
        source=redacted(source),
    )
    return run_local(training, decided, settings)


def go_live(done: LocalRun, settings: Settings) -> dict[str, Any]:
    """Start the servers of the champion and replay the day after `as_of` through them; returns the replay's report.

    Raises Unavailable when the servers do not come up or a served score differs from the offline one.
    """
    _serving(settings, "up")
    champion = served(settings)
    if champion is None:
        raise Unavailable("nothing is served: no model has been promoted in this home. Run the pipeline first.")
    folder = Registry(settings).folder(champion.version)
    generation = require_generation(Manifest.read(folder, "model"))
    feature_set = done.outputs["feature_set"]
    day = done.outputs["online_store"].facts["as_of"][:10]
    if day not in feature_set.facts["tables"]["events"]:
        log("nothing to replay: the data ends at as_of", day=day)
        return {}
    wanted = {"feature_set": feature_set.id, "model": champion.artifact_id, "day": day, "equal": True}
    if (report := _replayed(settings)).items() >= wanted.items():
        log("this model has answered that day before", day=day)
        return report
    if done.outputs["online_store"].facts["generation"] != generation:
        log("nothing to replay: the champion goes on as it is, and this run's state is not served", day=day)
        return {}
    follow = [feature_set.uri, "--generation", generation, "--follow"]
    refresh = shlex.join([sys.executable, "-m", "components.materialize", *follow])
    place = ("--feature-set", feature_set.uri, "--model", str(folder), "--day", day)
    _serving(settings, "replay", *place, "--refresh", refresh)
    return _replayed(settings)


def _replayed(settings: Settings) -> dict[str, Any]:
    """The report of this model's last replay; empty before the first."""
    path = settings.home / "serving" / "replay" / f"{settings.model_name}.json"
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return report


def _serving(settings: Settings, *arguments: str) -> None:
    """serving is another deployable: it is started as a program, never imported."""
    command = [sys.executable, "-m", "serving.local", "--workload", settings.workload, *arguments]
    if subprocess.run(command, check=False).returncode:
        logs = settings.home / "serving" / "logs"
        raise Unavailable(f"`python -m serving.local {arguments[0]}` failed, see above. Server logs: {logs}")


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run, print; a MillraceError becomes one message and status 1."""
    accept_any_text()
    options = _parser().parse_args(argv)
    try:
        said = IngestOptions.of(options)
        here = named(options.workload, options.name, said.columns)
        arguments = _arguments(options)
        if options.data:
            said = said.settled(options.data, load(here.workload))
        arguments["columns"] = said.columns.reading().argument()  # features are the variant's
        with writing_to(here.home):
            summary = run(options.data, arguments, here, live=not options.no_serve)
    except MillraceError as error:
        print(f"\nrun: {error}", file=sys.stderr)
        return 1
    summary.show()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m run", description=__doc__)
    parser.add_argument(
        "--data", default="", help="your events: a file, folder, glob, URI or database (default: simulated)"
    )
    parser.add_argument("--as-of", default="", help="instant the run speaks from (default: start of the last day)")
    parser.add_argument(
        "--train-days", type=int, default=0, help="training window, days (default: 28, or what fits the data)"
    )
    parser.add_argument("--no-serve", action="store_true", help="train and promote only")
    parser.add_argument(
        "--overrides",
        type=Path,
        help="YAML with validate, train and evaluate: keys of their files to change, e.g. limits for small data",
    )
    add_gates(parser)
    IngestOptions.add_to(parser)
    add_name(parser)
    return parser


def _arguments(options: argparse.Namespace) -> dict[str, Any]:
    arguments: dict[str, Any] = {"as_of": options.as_of, "train_days": options.train_days}
    return arguments | overrides(options.overrides) | gates(options)


def overrides(path: Path | None) -> dict[str, Any]:
    """`<component>_overrides` arguments from a YAML file; raises InvalidInput naming a component that has none."""
    if path is None:
        return {}
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise InvalidInput(f"--overrides {path}: {error}") from error
    known = {"validate", "train", "evaluate"}
    if not isinstance(document, dict) or not set(document) <= known:
        raise InvalidInput(f"--overrides {path}: wanted a mapping with some of {sorted(known)}")
    return {f"{component}_overrides": keys for component, keys in document.items()}


if __name__ == "__main__":
    sys.exit(main())
