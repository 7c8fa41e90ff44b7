"""The canary controller: `python -m serving.rollout [--start | --abort | --once | --until-end]`; alone it runs forever.

On a cluster (or with --target cluster) it moves a KServe InferenceService by what Prometheus says, else the local
runtime by what its servers say.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from pathlib import Path

from millrace.config import load_config
from millrace.errors import MillraceError
from millrace.observe.progress import log
from millrace.observe.tracing import configure
from millrace.registry.models import Registry
from millrace.rollout.policy import Action, RolloutPolicy
from millrace.settings import Settings, settings
from serving.rollout import core
from serving.rollout.alerts import AlertSource
from serving.rollout.controller import Controller, serve_health
from serving.rollout.core import MetricsSource, Target

POLICY = Path(__file__).with_name("rollout.yaml")


def main() -> int:
    """0: done, or promoted; 1: an error; 2: rolled back."""
    options = _arguments().parse_args()
    try:
        return _run(options, settings())
    except MillraceError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace, configured: Settings) -> int:
    policy = load_config(RolloutPolicy, options.policy or configured.rollout_policy or POLICY)
    registry = Registry(configured)
    configure("millrace-rollout")
    target, metrics = _sides(options, configured)
    if options.start:
        rollout = core.start(target, registry, policy, time.time, options.version)
        log("canary_started", version=rollout.canary, percent=rollout.percent, stable=rollout.stable)
        return 0
    if options.abort:
        core.abort(target, registry, time.time(), options.reason)
        log("canary_aborted", reason=options.reason)
        return 0
    controller = Controller(target, metrics, registry, policy, adopting=options.adopt or options.target == "cluster")
    if options.once:
        controller.look()
        return 0
    stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    if options.http_port:
        serve_health(options.http_port)
    last = controller.run(options.every, stop, until_end=options.until_end)
    return 2 if options.until_end and last is not None and last.action is Action.ROLL_BACK else 0


def _sides(options: argparse.Namespace, configured: Settings) -> tuple[Target, MetricsSource]:
    alerts = AlertSource(configured)
    if options.target == "cluster":
        from serving.rollout.cluster import ClusterTarget, PrometheusMetrics

        target = ClusterTarget(configured.model_name, options.namespace)
        return target, PrometheusMetrics(configured.prometheus_url, target.namespace, alerts)
    from serving.local.state import Place
    from serving.rollout.local import LocalMetrics, LocalTarget

    place = Place(configured.home.resolve())
    return LocalTarget(place, configured.model_name), LocalMetrics(place, configured.model_name, alerts)


def _arguments() -> argparse.ArgumentParser:
    inside = "KUBERNETES_SERVICE_HOST" in os.environ
    parser = argparse.ArgumentParser(prog="python -m serving.rollout", description=__doc__)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--start", action="store_true", help="start the canary of the challenger, or of --version")
    what.add_argument("--abort", action="store_true", help="roll back now")
    what.add_argument("--once", action="store_true", help="look once")
    what.add_argument("--until-end", action="store_true", help="run until the rollout has ended; status 2: rolled back")
    parser.add_argument("--version", type=int, help="with --start: this version instead of the challenger")
    parser.add_argument("--reason", default="aborted by hand", help="with --abort: kept in the audit record")
    parser.add_argument(
        "--adopt", action="store_true", help="start every new challenger's canary (always on a cluster)"
    )
    parser.add_argument("--policy", type=Path, help="YAML with steps and limits")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between looks")
    parser.add_argument("--target", choices=["local", "cluster"], default="cluster" if inside else "local")
    parser.add_argument("--namespace", default="", help="of the InferenceService; default: the pod's, else millrace")
    parser.add_argument("--http_port", type=int, default=8080 if inside else 0, help="port of /healthz; 0: none")
    return parser


if __name__ == "__main__":
    sys.exit(main())
