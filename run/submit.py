"""Send a compiled pipeline to Kubeflow Pipelines: `python -m run.submit NAME --host URL`, which is `make submit`.

Uploads the package as a version named after its content (the same one is uploaded once), runs or schedules it, waits
with a line per step, prints where the UI shows it, and fetches its reports. `--dry-run` checks all but the host.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from millrace.errors import InvalidInput, MillraceError, NotFound
from millrace.observe.progress import log
from run.compile import COMPILED, PIPELINES, compile_pipeline
from run.kfp_host import Place, answering, connect, fetch, schedule, start, wait
from run.package import Package


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, check, submit, wait; a MillraceError becomes one message and status 1."""
    options = _parser().parse_args(argv)
    try:
        _submit(options)
    except MillraceError as error:
        print(f"submit: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("submit: stopped waiting; the run goes on", file=sys.stderr)
        return 130
    return 0


def _submit(options: argparse.Namespace) -> None:
    package = Package.read(_package_path(options))
    arguments = package.arguments(_given(options))
    if options.dry_run:
        log("dry run", pipeline=package.name, version=package.version, host=options.host or "(in cluster)", **arguments)
        return
    client = connect(
        options.host, namespace=options.namespace, ca_cert=options.ca_cert, verify_tls=not options.insecure
    )
    place = Place(client, options.host.rstrip("/"), options.experiment, options.namespace, options.service_account)
    with answering(options.host):
        if options.cron:
            schedule(place, package, arguments, cron=options.cron, name=options.run_name)
            return
        run_id = start(place, package, arguments, name=options.run_name, cached=not options.no_cache)
        if options.wait:
            wait(client, run_id, options.timeout)
    if options.fetch:
        for path in fetch(options.pipeline_root, run_id, package.report_names, options.fetch):
            log("report", path=path)


def _package_path(options: argparse.Namespace) -> Path:
    """The committed package, or one compiled for `--image`."""
    if options.pipeline not in PIPELINES:
        raise NotFound(f"no pipeline {options.pipeline!r}; there are {', '.join(sorted(PIPELINES))}")
    if not options.image:
        return COMPILED / f"{options.pipeline}.yaml"
    path = Path(options.package or f"{options.pipeline}.yaml")
    compile_pipeline(options.pipeline, path, options.image)
    log("compiled", path=path, image=options.image)
    return path


def _given(options: argparse.Namespace) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for item in options.param:
        name, separator, value = item.partition("=")
        if not separator:
            raise InvalidInput(f"--param {item!r} has no '='; wanted name=value")
        given[name] = value
    return given


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m run.submit", description=__doc__)
    parser.add_argument("pipeline", help=f"of {', '.join(sorted(PIPELINES))}")
    parser.add_argument("--host", default=os.environ.get("KF_PIPELINES_ENDPOINT", ""), help="URL of KFP's UI or API")
    parser.add_argument("--param", action="append", default=[], metavar="NAME=VALUE", help="JSON where not a string")
    parser.add_argument("--image", default="", help="compile for this pipeline image instead of the committed package")
    parser.add_argument("--package", default="", help="where --image writes the package (default: PIPELINE.yaml here)")
    parser.add_argument("--experiment", default="millrace")
    parser.add_argument("--namespace", default=None, help="profile namespace of a multi-user installation")
    parser.add_argument("--service-account", default=None, help="of the steps' pods")
    parser.add_argument("--run-name", default="", help="of the run, or of the schedule")
    parser.add_argument(
        "--cron", default="", help="schedule instead of one run: KFP's six fields, such as '0 0 3 * * *'"
    )
    parser.add_argument("--no-cache", action="store_true", help="run every step anew")
    parser.add_argument("--no-wait", dest="wait", action="store_false", help="return when it is started")
    parser.add_argument("--timeout", type=float, default=6 * 3600, help="seconds to wait (default: six hours)")
    parser.add_argument("--fetch", type=Path, help="folder for the HTML reports of the finished run")
    parser.add_argument(
        "--pipeline-root", default="", help="where the run's outputs lie, for --fetch: s3://bucket/path"
    )
    parser.add_argument("--ca-cert", default=None, help="certificate authority of the host")
    parser.add_argument("--insecure", action="store_true", help="do not verify the host's certificate")
    parser.add_argument("--dry-run", action="store_true", help="check package and parameters, send nothing")
    return parser


if __name__ == "__main__":
    sys.exit(main())
