"""A real Prometheus beside the local runtime, with the cluster's rules: `make observe`.

Reads which ports the runtime has from `<home>/serving/local.json` and follows it when they move; writes its
configuration and data to `<home>/observe`. Wants `prometheus` on the PATH; ends with it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import yaml

from millrace.errors import MillraceError, NotFound
from millrace.lake.atomic import write_text
from millrace.settings import settings
from serving.local.state import AGENT, GATEWAY, LocalState, Place

RULES: Final = Path(__file__).parents[2] / "manifests" / "base" / "monitoring" / "prometheusrule.yaml"
LOOPBACK: Final = "127.0.0.1"
LOOK_S: Final = 5.0
"""How often the runtime's ports are looked at."""


def targets(state: LocalState | None) -> list[dict[str, Any]]:
    """Prometheus' file_sd: the agent, which says what Envoy counted of the revisions, and every server."""
    if state is None or not state.gateway_port:
        return []
    found = [(process.http_port, {"job": GATEWAY}) for process in state.processes if process.role == AGENT]
    for process in state.processes:
        if process.http_port and process.service != GATEWAY:
            labels = {"job": process.service or state.service, "component": process.role}
            found.append(
                (process.http_port, labels | ({"revision_name": process.revision} if process.revision else {}))
            )
    return [{"targets": [f"{LOOPBACK}:{port}"], "labels": labels} for port, labels in found]


def configuration(folder: Path) -> dict[str, Any]:
    """prometheus.yml. A revision's own name wins over the one that the gateway's metrics carry."""
    return {
        "global": {"scrape_interval": "5s", "evaluation_interval": "5s"},
        "rule_files": [str(folder / "rules.yaml")],
        "scrape_configs": [
            {
                "job_name": "millrace",
                "honor_labels": True,
                "file_sd_configs": [{"files": [str(folder / "targets.json")], "refresh_interval": "5s"}],
            }
        ],
    }


def prepare(folder: Path) -> Path:
    """Write rules and configuration; the path of the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(
        folder / "rules.yaml",
        yaml.safe_dump(yaml.safe_load(RULES.read_text(encoding="utf-8"))["spec"], sort_keys=False),
    )
    path = folder / "prometheus.yml"
    write_text(path, yaml.safe_dump(configuration(folder), sort_keys=False))
    return path


def program() -> str:
    found = shutil.which("prometheus")
    if found is None:
        raise NotFound(
            "prometheus is not installed. Debian: apt-get install prometheus; others: prometheus.io/download"
        )
    return found


def observe(home: Path, port: int) -> int:
    """Until Prometheus ends; its status."""
    folder = home / "observe"
    command = [
        program(),
        f"--config.file={prepare(folder)}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={LOOPBACK}:{port}",
        "--log.level=warn",
    ]
    _follow(home, folder)
    with subprocess.Popen(command) as prometheus:
        print(f"http://{LOOPBACK}:{port}/alerts", flush=True)
        try:
            while True:
                try:
                    return prometheus.wait(LOOK_S)
                except subprocess.TimeoutExpired:
                    _follow(home, folder)
        except KeyboardInterrupt:
            prometheus.terminate()
            return prometheus.wait()


def _follow(home: Path, folder: Path) -> None:
    place, path = Place(home), folder / "targets.json"
    text = json.dumps(targets(place.read() if place.alive() else None), indent=1)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m serving.local.observe", description=__doc__)
    parser.add_argument("--port", type=int, default=9090, help="port of Prometheus (default 9090)")
    options = parser.parse_args()
    try:
        return observe(settings().home.resolve(), options.port)
    except MillraceError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
