"""Build an edge package: the champion's graph, the feature code, the states, and a runner, in one folder.

The feature code is the project's own modules, copied with `millrace` renamed to `edge`; what runs them there is
`score.py`, which is copied as it is. Everything but states and onnxruntime has to stay below SIZE_LIMIT.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fraud.features import CUSTOMER_STATE_FIELDS, TERMINAL_STATE_FIELDS
from millrace.errors import InvalidInput, NotFound
from millrace.lake.atomic import replacing_folder
from millrace.lake.feast_home import filled_with
from millrace.lake.manifest import MANIFEST, Manifest, content_id, hash_files, list_manifests
from millrace.registry.model_spec import ModelSpec
from millrace.registry.models import Registry, served
from millrace.settings import Settings

SOURCE: Final = Path(__file__).parents[2] / "src" / "millrace"
MODULES: Final = ("errors", "pseudonyms", "fraud/features", "fraud/online", "fraud/requests")
"""What the runner imports, and what that imports: NumPy and the standard library below it."""
RUNNER: Final = Path(__file__).with_name("score.py")
STATE: Final = "state.npz"
SIZE_LIMIT: Final = 10_000_000
"""Bytes of the package without its states."""
AP_BUDGET: Final = 0.01
"""Share of the served graph's average precision that a smaller one may lose on the validation rows: where `optimise`
recorded it, the upper end of its interval."""
SMALL_GRAPHS: Final = {"student.onnx": "student", "model.int8.onnx": "int8"}
"""In the order in which they are preferred."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EdgeLimits:
    """How much state goes along; 0: all of it."""

    customers: int = 0
    """The most recently active ones."""
    terminals: int = 0
    """The busiest ones of the last 30 days."""
    full: bool = False
    """The served graph goes along, whatever smaller one there is."""

    def __post_init__(self) -> None:
        for name in ("customers", "terminals"):
            if getattr(self, name) < 0:
                raise InvalidInput(f"{name} is {getattr(self, name)}; wanted 0 (all) or more")


def champion(settings: Settings, version: int | None = None) -> tuple[Manifest, str]:
    """The model of that version, by default the champion, and its number; raises NotFound."""
    if version is None and (current := served(settings)) is None:
        raise NotFound(f"nothing is served from {settings.home}. Run the pipeline first: make run")
    number = version or current.version  # type: ignore[union-attr]
    return Manifest.read(Registry(settings).folder(number), "model"), str(number)


def states(settings: Settings) -> Manifest:
    """What the online store was filled from last, else the newest in the lake; raises NotFound."""
    online = settings.lake / "online"
    if (name := filled_with(settings.home, settings.workload)) and (online / name / MANIFEST).is_file():
        return Manifest.read(online / name, "online_store")
    found = list(list_manifests(online, "online_store"))
    if not found:
        raise NotFound(f"no states in {online}. Run the pipeline first: make run")
    return found[-1]


def build(model: Manifest, version: str, online: Manifest, out: Path, limits: EdgeLimits) -> dict[str, Any]:
    """Write the package to `out`, which must not be there yet; returns its manifest.

    Raises InvalidInput when `out` is taken, states and model keep different histories, or the package gets too large,
    and ArtifactCorrupt when a source differs from its hash.
    """
    if out.exists():
        raise InvalidInput(f"{out} is there already. Name another folder, or remove it: make edge OUT=folder")
    model.verify()
    online.verify()
    spec = ModelSpec.read(model.folder)
    spec.require_contract()
    kept = int(online.facts["history_length"])
    if kept != spec.history_length:
        raise InvalidInput(f"the states keep {kept} transactions; the model was trained with {spec.history_length}")
    graph = choose_graph(model, spec, limits.full)
    with replacing_folder(out) as aside:
        shutil.copyfile(model.path(graph.file), aside / graph.file)
        shutil.copyfile(RUNNER, aside / RUNNER.name)
        copy_feature_code(aside / "edge")
        _require_small(aside)
        counts = write_state(online, aside / STATE, limits)
        manifest = {
            "kind": "edge",
            "model_version": version,
            "model_id": model.id,
            "graph": graph.file,
            "precision": graph.precision,
            "decision_threshold": graph.decision_threshold,
            "certain_below": graph.certain_below,
            "history_length": spec.history_length,
            "sequence_length": spec.sequence_length,
            "feature_service": spec.feature_service,
            "online_store": online.id,
            "states_as_of": online.facts["as_of"],
            **counts,
            "files": hash_files(aside),
        }
        manifest["id"] = content_id(manifest)
        (aside / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")
    return manifest


@dataclass(frozen=True, slots=True)
class EdgeGraph:
    """The graph of a package, and how its scores are read."""

    file: str
    precision: str
    decision_threshold: float
    certain_below: float | None = None
    """In hybrid mode a lower score is the answer; None where only the distance from the threshold tells."""


def choose_graph(model: Manifest, spec: ModelSpec, full: bool = False) -> EdgeGraph:
    """The smallest graph of the artifact that keeps its average precision, even where it is not the served one."""
    served_file = spec.served_file
    if served_file is None or spec.decision_threshold is None:
        raise InvalidInput(f"model {model.id} has no graph to serve: it is trained only. Run optimise first.")
    variants = {item["file"]: item for item in spec.optimisation.get("variants", ())}
    for name, precision in SMALL_GRAPHS.items():
        if not full and name in model.files and _keeps(variants.get(name), variants.get(served_file)):
            threshold = variants[name].get("decision_threshold", spec.decision_threshold)
            return EdgeGraph(name, precision, threshold, variants[name].get("certain_below"))
    return EdgeGraph(served_file, SMALL_GRAPHS.get(served_file, "fp32"), spec.decision_threshold)


def _keeps(small: Mapping[str, Any] | None, served: Mapping[str, Any] | None) -> bool:
    """Whether a graph's average precision stays within the budget of the served one's; what is not known does not."""
    if small is None or served is None or None in (small["average_precision"], served["average_precision"]):
        return False
    loss = small.get("loss_high", served["average_precision"] - small["average_precision"])
    return loss is not None and loss <= AP_BUDGET * served["average_precision"]


def copy_feature_code(folder: Path) -> None:
    """The modules that the runner needs, as a package named `edge`."""
    for name in MODULES:
        target = folder / f"{name}.py"
        target.parent.mkdir(parents=True, exist_ok=True)
        text = (SOURCE / f"{name}.py").read_text()
        target.write_text(text.replace("from millrace", "from edge"))
        (target.parent / "__init__.py").touch()


def write_state(online: Manifest, path: Path, limits: EdgeLimits) -> dict[str, int]:
    """Customers and terminals of an online store as arrays; how many of each."""
    customers = pq.read_table(online.path("customer_state.parquet"))
    terminals = pq.read_table(online.path("terminal_state.parquet"))
    customers = _first(customers, "event_timestamp", limits.customers)
    terminals = _first(terminals, "count_30d", limits.terminals)
    lists = {name: customers[name].combine_chunks() for name in CUSTOMER_STATE_FIELDS}
    lengths = pc.list_value_length(lists["event_us"]).to_numpy(zero_copy_only=False)
    columns = {
        f"customer_{name}": pc.list_flatten(column).to_numpy(zero_copy_only=False) for name, column in lists.items()
    }
    np.savez_compressed(
        path,
        customer_id=_text(customers["customer_id"]),
        customer_end=np.cumsum(lengths, dtype=np.int64),
        terminal_id=_text(terminals["terminal_id"]),
        terminal_state=np.stack([terminals[name].to_numpy() for name in TERMINAL_STATE_FIELDS], axis=1).astype(
            np.int64
        ),
        **columns,
    )
    return {"customers": len(customers), "terminals": len(terminals)}


def _first(table: pa.Table, column: str, limit: int) -> pa.Table:
    """The `limit` rows of the largest values of a column; all for 0."""
    return table.sort_by([(column, "descending")]).slice(0, limit) if limit else table


def _text(column: pa.ChunkedArray) -> Any:
    """Ids as fixed-width text, which NumPy loads without pickle."""
    return np.array(column.to_pylist(), dtype=np.str_)


def _require_small(folder: Path) -> None:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > SIZE_LIMIT:
        raise InvalidInput(
            f"the package without states is {size:,} bytes; wanted at most {SIZE_LIMIT:,}. Serve a smaller model: "
            "int8, fewer trees, a student."
        )
