"""A Kubeflow Pipelines host: upload a package once, run it, schedule it, follow a run, fetch its reports.

What it refuses or does not answer is Unavailable, with what to do; the command line is `submit.py`'s.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import fsspec

from millrace.errors import MillraceError, NotFound, Unavailable
from millrace.observe.progress import log
from run.package import Package

TOKEN_ENV: Final = "MILLRACE_KFP_TOKEN"  # noqa: S105 - the name of a variable
COOKIES_ENV: Final = "MILLRACE_KFP_COOKIES"
POLL_S: Final = 5.0
ENDED: Final = {"SUCCEEDED", "FAILED", "CANCELED", "SKIPPED", "CACHED"}


class RunFailed(MillraceError, RuntimeError):
    """The run on the cluster did not succeed; the message names the steps that failed and where to look."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where runs go: the experiment and namespace at a KFP host, and whom their pods run as."""

    client: Any
    host: str
    experiment: str
    namespace: str | None = None
    service_account: str | None = None

    def experiment_id(self) -> str:
        """Of the experiment, made when there is none of that name."""
        found = self.client.create_experiment(self.experiment, namespace=self.namespace)
        return str(found.experiment_id)


def connect(host: str, *, namespace: str | None, ca_cert: str | None, verify_tls: bool) -> Any:
    """A kfp client that has spoken to the host; raises Unavailable saying what to look at.

    Credentials are kfp's: a bearer token in MILLRACE_KFP_TOKEN, an Istio or OAuth session in MILLRACE_KFP_COOKIES, in a
    pod the projected service account token, or none behind a port-forward.
    """
    import kfp

    class Client(kfp.Client):
        """Asks the host once, not five times with 5 s between: a refused token should show at once."""

        def get_kfp_healthz(self, sleep_duration: int = 0) -> Any:  # noqa: ARG002 - kfp's signature
            return self._healthz_api.healthz_service_get_healthz(_request_timeout=10)

    with warnings.catch_warnings(), answering(host):
        warnings.simplefilter("ignore")
        client = Client(
            host=host or None,
            namespace=namespace or "kubeflow",
            existing_token=os.environ.get(TOKEN_ENV),
            cookies=os.environ.get(COOKIES_ENV),
            ssl_ca_cert=ca_cert,
            verify_ssl=verify_tls,
        )
        client.get_kfp_healthz()
    return client


def upload(client: Any, package: Package) -> tuple[str, str]:
    """Ids of the pipeline and of the version that holds this package; uploaded unless it is there."""
    pipeline_id = client.get_pipeline_id(package.name)
    if pipeline_id is None:
        pipeline_id = client.upload_pipeline(str(package.path), pipeline_name=package.name).pipeline_id
        log("pipeline uploaded", pipeline=package.name)
    for version in _pages(client.list_pipeline_versions, "pipeline_versions", pipeline_id=pipeline_id):
        if version.display_name == package.version:
            return pipeline_id, version.pipeline_version_id
    version = client.upload_pipeline_version(str(package.path), package.version, pipeline_id=pipeline_id)
    log("version uploaded", pipeline=package.name, version=package.version)
    return pipeline_id, version.pipeline_version_id


def start(place: Place, package: Package, arguments: Mapping[str, Any], *, name: str = "", cached: bool = True) -> str:
    """Start one run; returns its id."""
    pipeline_id, version_id = upload(place.client, package)
    run = place.client.run_pipeline(
        place.experiment_id(),
        name or f"{package.name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}",
        params=dict(arguments),
        pipeline_id=pipeline_id,
        version_id=version_id,
        enable_caching=None if cached else False,
        service_account=place.service_account,
    )
    log("run started", run=run.run_id, page=f"{place.host}/#/runs/details/{run.run_id}")
    return str(run.run_id)


def schedule(place: Place, package: Package, arguments: Mapping[str, Any], *, cron: str, name: str = "") -> str:
    """Run it by `cron` from now on, in place of an earlier schedule of the same name; returns the schedule's id."""
    pipeline_id, version_id = upload(place.client, package)
    name = name or f"{package.name}-scheduled"
    experiment_id = place.experiment_id()
    for old in _pages(place.client.list_recurring_runs, "recurring_runs", experiment_id=experiment_id):
        if old.display_name == name:
            place.client.delete_recurring_run(old.recurring_run_id)
            log("schedule replaced", schedule=name, old=old.recurring_run_id)
    made = place.client.create_recurring_run(
        experiment_id,
        name,
        cron_expression=cron,
        max_concurrency=1,
        no_catchup=True,
        params=dict(arguments),
        pipeline_id=pipeline_id,
        version_id=version_id,
        service_account=place.service_account,
    )
    log("scheduled", schedule=made.recurring_run_id, cron=cron, page=f"{place.host}/#/recurringruns")
    return str(made.recurring_run_id)


def wait(client: Any, run_id: str, timeout_s: float, *, poll_s: float = POLL_S) -> None:
    """Follow a run to its end, a line per step that changes; raises RunFailed, and Unavailable past `timeout_s`."""
    deadline, seen = time.monotonic() + timeout_s, dict[str, str]()
    while True:
        run = client.get_run(run_id)
        details = (run.run_details.task_details or []) if run.run_details else []
        for task in details:
            if task.state and seen.get(task.display_name) != task.state:
                seen[task.display_name] = task.state
                log("step", step=task.display_name, state=task.state)
        if run.state in ENDED:
            break
        if time.monotonic() > deadline:
            raise Unavailable(f"run {run_id} is {run.state} after {timeout_s:g} s; it goes on. Wait longer: --timeout")
        time.sleep(poll_s)
    if run.state != "SUCCEEDED":
        failed = [
            f"{task.display_name} ({task.error.message if task.error else task.state})"
            for task in details
            if task.state == "FAILED"
        ]
        why = run.error.message if run.error else "no message"
        raise RunFailed(
            f"run {run_id} ended {run.state}: {', '.join(failed) or why}. The UI's page of the run has each step's log."
        )
    log("run succeeded", run=run_id)


def fetch(root: str, run_id: str, names: frozenset[str], folder: Path) -> list[Path]:
    """Copy the run's HTML outputs from the pipeline root (any fsspec URI) to `folder`; returns what was written.

    Raises NotFound when the root has nothing of this run.
    """
    files, base = fsspec.core.url_to_fs(root)
    found = [path for path in files.find(base) if f"/{run_id}/" in path]
    if not found:
        raise NotFound(f"nothing of run {run_id} below {root}. Is that the pipeline root the run was given?")
    written = []
    for path in found:
        parts = path.rsplit(f"/{run_id}/", 1)[1].split("/")
        if parts[-1] in names:
            target = folder / f"{parts[0]}-{parts[-1]}.html"
            target.parent.mkdir(parents=True, exist_ok=True)
            files.get_file(path, str(target))
            written.append(target)
    return written


@contextmanager
def answering(host: str) -> Iterator[None]:
    """What the host refuses or does not answer, as an error that says what to do."""
    import kfp_server_api
    import urllib3

    where = host or "the cluster's own KFP API"
    try:
        yield
    except kfp_server_api.ApiException as error:
        if error.status in (401, 403):
            raise Unavailable(
                f"{where} answered {error.status}: the token or session is missing, expired or not allowed. "
                f"Set {TOKEN_ENV} (kubectl create token pipeline-runner -n NAMESPACE) or {COOKIES_ENV}."
            ) from error
        raise Unavailable(f"{where} answered {error.status}: {str(error.body)[:300]}") from error
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise Unavailable(
            f"{where} cannot be reached: {error}. "
            "Is it up? kubectl port-forward -n kubeflow svc/ml-pipeline-ui 8080:80, then HOST=http://localhost:8080"
        ) from error


def _pages(list_: Callable[..., Any], field: str, **arguments: Any) -> Iterator[Any]:
    """Every item of a paged listing."""
    token = ""
    while True:
        page = list_(page_token=token, page_size=100, **arguments)
        yield from getattr(page, field) or []
        token = page.next_page_token or ""
        if not token:
            return
