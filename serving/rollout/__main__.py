"""The canary controller: `python -m serving.rollout [--start | --abort | --status | --once | --until-end]`.

Alone it runs forever, for the services of all workloads.

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
from millrace.installed import load, names
from millrace.observe.progress import log
from millrace.observe.tracing import configure
from millrace.registry.models import Registry
from millrace.rollout.decision import Action
from millrace.rollout.policy import RolloutPolicy
from millrace.settings import Settings, settings
from millrace.workload import Task
from serving.rollout import core
from serving.rollout.controller import Controller, run_all, serve_health
from serving.rollout.core import MetricsSource, Target
from serving.rollout.labels import LabelSource

POLICY = Path(__file__).with_name("rollout.yaml")


def main() -> int:
    """0: done, or promoted; 1: an error; 2: rolled back."""
    options = _arguments().parse_args()
    try:
        return _run(options)
    except MillraceError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace) -> int:
    configured = settings(options.workload)
    policy = load_config(RolloutPolicy, options.policy or configured.rollout_policy or POLICY)
    configure("millrace-rollout")
    if options.status:
        print(core.told(_target(options, configured).read()))
        return 0
    if options.start or options.abort:
        return _by_hand(options, configured, policy)
    if options.once:
        _controller(options, configured, policy).look()
        return 0

    stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    if options.http_port:
        serve_health(options.http_port)
    if options.until_end:
        last = _controller(options, configured, policy).run(options.every, stop, until_end=True)
        return 2 if last is not None and last.action is Action.ROLL_BACK else 0
    chosen = [options.workload] if options.workload else names()
    run_all([_controller(options, settings(name), policy) for name in chosen], options.every, stop)
    return 0


def _by_hand(options: argparse.Namespace, configured: Settings, policy: RolloutPolicy) -> int:
    """Start or abort the canary of a workload."""
    target, registry = _target(options, configured), Registry(configured)
    if options.start:
        rollout = core.start(target, registry, policy, time.time, options.version)
        log("canary_started", version=rollout.canary, percent=rollout.percent, stable=rollout.stable)
        return 0
    core.abort(target, registry, time.time(), options.reason)
    log("canary_aborted", reason=options.reason)
    return 0


def _controller(options: argparse.Namespace, configured: Settings, policy: RolloutPolicy) -> Controller:
    """Of a workload's service."""
    adopting = options.adopt or options.target == "cluster"
    target = _target(options, configured)
    metrics = _metrics(options, configured, target)
    return Controller(target, metrics, Registry(configured), policy, adopting=adopting)


def _target(options: argparse.Namespace, configured: Settings) -> Target:
    if options.target == "cluster":
        from serving.rollout.cluster import ClusterTarget

        return ClusterTarget(configured.model_name, options.namespace)
    from serving.local.state import Place
    from serving.rollout.local import LocalTarget

    return LocalTarget(Place(configured.home.resolve()), configured.model_name)


def _metrics(options: argparse.Namespace, configured: Settings, target: Target) -> MetricsSource:
    labels = LabelSource(configured)
    decides = load(configured.workload).task is Task.RANKING
    if options.target == "cluster":
        from serving.rollout.cluster import ClusterTarget, PrometheusMetrics, namespace_of

        namespace = namespace_of(options.namespace)
        pods = target.pods if isinstance(target, ClusterTarget) else None
        name = configured.model_name
        return PrometheusMetrics(configured.prometheus_url, namespace, name, labels, decides=decides, pods=pods)
    from serving.local.state import Place
    from serving.rollout.local import LocalMetrics

    return LocalMetrics(Place(configured.home.resolve()), configured.model_name, labels, decides=decides)


def _arguments() -> argparse.ArgumentParser:
    inside = "KUBERNETES_SERVICE_HOST" in os.environ
    parser = argparse.ArgumentParser(prog="python -m serving.rollout", description=__doc__)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--start", action="store_true", help="start the canary of the challenger, or of --version")
    what.add_argument("--abort", action="store_true", help="roll back now")
    what.add_argument("--status", action="store_true", help="say where the last rollout is, and why")
    what.add_argument("--once", action="store_true", help="look once")
    what.add_argument("--until-end", action="store_true", help="run until the rollout has ended; status 2: rolled back")
    parser.add_argument("--workload", default="", help="whose service (default: MILLRACE_WORKLOAD; forever: all)")
    parser.add_argument("--version", type=int, help="with --start: this version instead of the challenger")
    parser.add_argument("--reason", default="aborted by hand", help="with --abort: kept in the audit record")
    parser.add_argument(
        "--adopt", action="store_true", help="start every new challenger's canary (always on a cluster)"
    )
    parser.add_argument("--policy", type=Path, help="YAML with steps and limits")
    parser.add_argument("--every", type=float, default=2.0, help="seconds between looks (default 2)")
    parser.add_argument("--target", choices=["local", "cluster"], default="cluster" if inside else "local")
    parser.add_argument("--namespace", default="", help="of the InferenceService; default: the pod's, else millrace")
    parser.add_argument("--http_port", type=int, default=8080 if inside else 0, help="port of /healthz; 0: none")
    return parser


if __name__ == "__main__":
    sys.exit(main())
