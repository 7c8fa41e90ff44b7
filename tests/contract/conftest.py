"""The manifests as the API server would get them: every overlay, built once. Real servers of S3, Redis, PostgreSQL."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
import yaml
from s3_server import make_bucket, running_server

from millrace.lake.manifest import Manifest
from millrace.settings import Settings

if TYPE_CHECKING:
    from feast_cluster import Cluster

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "manifests"
SCHEMAS = Path(os.environ.get("MILLRACE_SCHEMAS", ROOT.parent / "shared" / "schemas"))
OVERLAYS = tuple(sorted(path.name for path in (MANIFESTS / "overlays").iterdir()))


def kustomize(folder: Path) -> list[dict[str, Any]]:
    """What `kubectl apply -k folder` would send."""
    program = ["kubectl", "kustomize"] if shutil.which("kubectl") else ["kustomize", "build"]
    if not shutil.which(program[0]):
        pytest.skip("neither kubectl nor kustomize is installed; https://kubernetes.io/docs/tasks/tools/")
    built = subprocess.run([*program, str(folder)], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return [document for document in yaml.safe_load_all(built.stdout) if document]


@pytest.fixture(scope="session")
def overlays() -> dict[str, list[dict[str, Any]]]:
    """Name of an overlay → its objects."""
    return {name: kustomize(MANIFESTS / "overlays" / name) for name in OVERLAYS}


def place_of(component: str) -> str:
    """Folder of a component: a workload's own, or one for all workloads."""
    own = sorted(MANIFESTS.glob(f"workloads/*/{component}"))
    return str((own[0] if own else MANIFESTS / "components" / component).relative_to(MANIFESTS))


@pytest.fixture
def build() -> Iterator[Callable[..., list[dict[str, Any]]]]:
    """`build(component, …)` → platform and base with those components."""
    with tempfile.TemporaryDirectory(prefix=".check-", dir=MANIFESTS) as folder:  # kustomize knows no absolute paths

        def make(*components: str) -> list[dict[str, Any]]:
            document = {
                "apiVersion": "kustomize.config.k8s.io/v1beta1",
                "kind": "Kustomization",
                "namespace": "millrace",
                "resources": ["../platform", "../base"],
                "components": [f"../{place_of(name)}" for name in components],
            }
            (Path(folder) / "kustomization.yaml").write_text(yaml.safe_dump(document))
            return kustomize(Path(folder))

        yield make


@pytest.fixture(scope="session")
def schemas() -> Path:
    """Folder of one strict JSON schema per kind and version."""
    if not SCHEMAS.is_dir():
        pytest.skip(f"no schemas at {SCHEMAS}; set MILLRACE_SCHEMAS to the folder that holds them")
    return SCHEMAS


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    with running_server() as url:
        yield url


@pytest.fixture
def bucket(s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    return make_bucket(s3_server, tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory,
    simulated_days: list[pa.Table],
    snapshot_of: Callable[..., Manifest],
    with_database: Callable[[Path], Settings],
) -> Iterator[Cluster]:
    """The feature store of a cluster, filled; a module's own, since its tests change it."""
    from feast_cluster import running  # Feast takes seconds to import, and few contract tests need it

    home = with_database(tmp_path_factory.mktemp("cluster")).home
    with running(home, lambda lake: snapshot_of(lake, simulated_days)) as made:
        yield made
