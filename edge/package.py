"""Build an edge package: a model's graph, the workload's single-row code, the states, and a runner, in one folder.

The code is the project's own modules (`code.py`); what runs them there is `score.py`, which is copied as it is.
Everything but states and onnxruntime has to stay below SIZE_LIMIT.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from edge.code import copy_code
from millrace.errors import InvalidInput, NotFound
from millrace.fields import View
from millrace.installed import Workload
from millrace.lake.atomic import replacing_folder
from millrace.lake.feast_home import filled_with, repository
from millrace.lake.manifest import MANIFEST, Manifest, content_id, hash_files, list_manifests
from millrace.registry.model_spec import ModelSpec
from millrace.registry.models import Registry, served
from millrace.requests import RequestFormat
from millrace.settings import Settings

RUNNER: Final = Path(__file__).with_name("score.py")
STATE: Final = "state.npz"
SIZE_LIMIT: Final = 10_000_000
"""Bytes of the package without its states."""
AP_BUDGET: Final = 0.01
"""Share of the served graph's average precision that a smaller one may lose on the validation rows: where `optimise`
recorded it, the upper end of its interval."""
SMALL_GRAPHS: Final = {"student.onnx": "student", "model.int8.onnx": "int8"}
"""In the order in which they are preferred."""


@dataclass(frozen=True, slots=True)
class Limit:
    """How many states of a view go along: of a recent one the latest, else those with the largest value of `by`."""

    count: int
    by: str = ""
    """Field of a refreshed view; empty: its first."""

    @classmethod
    def parse(cls, text: str) -> tuple[str, Limit]:
        """`VIEW=COUNT[:FIELD]` → view and limit; raises InvalidInput."""
        view, _, rest = text.partition("=")
        count, _, by = rest.partition(":")
        if not view or not count.isdecimal():
            raise InvalidInput(f"limit {text!r}; wanted VIEW=COUNT or VIEW=COUNT:FIELD")
        return view, cls(int(count), by)


@dataclass(frozen=True, kw_only=True, slots=True)
class EdgeOptions:
    """What goes along."""

    limits: Mapping[str, Limit] = field(default_factory=dict)
    """By view; of the others everything."""
    full: bool = False
    """The served graph goes along, whatever smaller one there is."""


def champion(settings: Settings, version: int | None = None) -> tuple[Manifest, str]:
    """The model of that version, by default the champion, and its number; raises NotFound."""
    if version is None and (current := served(settings)) is None:
        raise NotFound(f"nothing is served from {settings.home}. Run the pipeline first: make run")
    number = version or current.version  # type: ignore[union-attr]
    return Manifest.read(Registry(settings).folder(number), "model"), str(number)


def states(settings: Settings, workload: str, generation: str = "") -> Manifest:
    """What a generation was filled from last, else the newest in the lake; raises NotFound."""
    online = settings.lake / "online"
    name = filled_with(repository(settings.home, workload, generation)) if generation else None
    if name and (online / name / MANIFEST).is_file():
        return Manifest.read(online / name, "online_store")
    found = [one for one in list_manifests(online, "online_store") if one.workload == workload]
    if not found:
        raise NotFound(f"no states in {online}. Run the pipeline first: make run")
    return found[-1]


def build(model: Manifest, version: str, online: Manifest, out: Path, options: EdgeOptions) -> dict[str, Any]:
    """Write the package to `out`, which must not be there yet; returns its manifest.

    Raises InvalidInput when `out` is taken, the model reads columns of its own, states and model keep different
    histories, or the package gets too large, and ArtifactCorrupt when a source differs from its hash.
    """
    if out.exists():
        raise InvalidInput(f"{out} is there already. Name another folder, or remove it: make edge OUT=folder")
    model.verify()
    online.verify()
    spec = ModelSpec.read(model.fetch())
    spec.require_contract()
    workload = spec.of_workload()
    if workload.has_own:
        raise InvalidInput(
            f"workload {workload.name!r} has columns of its own, and a package carries the code of "
            f"{workload.package!r} alone. Package a model without such columns."
        )
    kept = int(online.facts.get("history_length", 0))
    if workload.recent is not None and kept != spec.history_length:
        raise InvalidInput(
            f"the states keep {kept} {workload.event[1]}; the model was trained with {spec.history_length}"
        )
    graph = choose_graph(model, spec, options.full)
    with replacing_folder(out) as aside:
        shutil.copyfile(model.path(graph.file), aside / graph.file)
        shutil.copyfile(RUNNER, aside / RUNNER.name)
        copy_code(workload, aside / "edge")
        _require_small(aside)
        counts = write_state(workload, online, aside / STATE, options.limits)
        manifest = {
            "kind": "edge",
            **_described(workload),
            "states": counts,
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
            "files": hash_files(aside),
        }
        manifest["id"] = content_id(manifest)
        (aside / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return manifest


@dataclass(frozen=True, slots=True)
class EdgeGraph:
    """The graph of a package, and how its scores are read."""

    file: str
    precision: str
    decision_threshold: float | None
    """None where the task makes no decision."""
    certain_below: float | None = None
    """In hybrid mode a lower score is the answer; None where only the distance from the threshold tells."""


def choose_graph(model: Manifest, spec: ModelSpec, full: bool = False) -> EdgeGraph:
    """The smallest graph of the artifact that keeps its average precision, even where it is not the served one."""
    served_file = spec.served_file
    if served_file is None or (spec.decides and spec.decision_threshold is None):
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


def _described(workload: Workload) -> dict[str, Any]:
    """What the runner must know of the workload's requests, states and answers."""
    form = RequestFormat.of(workload)
    return {
        "workload": workload.name,
        "package": workload.package,
        "event_id": form.event_id,
        "entities": [asdict(entity) for entity in form.entities],
        "fields": [asdict(field) for field in form.fields],
        "answer": dict(workload.exchange.ANSWER),
        "views": [_view(view) for view in workload.features.VIEWS],
    }


def _view(view: View) -> dict[str, Any]:
    return {"name": view.name, "entity": view.entity, "recent": view.recent, "fields": list(view.fields)}


def write_state(workload: Workload, online: Manifest, path: Path, limits: Mapping[str, Limit]) -> dict[str, int]:
    """The states of an online store as arrays; how many of each view."""
    if unknown := limits.keys() - {view.name for view in workload.features.VIEWS}:
        names = ", ".join(view.name for view in workload.features.VIEWS)
        raise InvalidInput(f"there is no view {min(unknown)!r} to limit; wanted some of {names}")
    arrays: dict[str, Any] = {}
    counts = {}
    for view in workload.features.VIEWS:
        table = _first(pq.read_table(online.path(f"{view.name}.parquet")), view, limits.get(view.name))
        counts[view.name] = len(table)
        key = workload.entity(view.entity).key
        # Fixed-width text, which NumPy loads without pickle.
        arrays[f"{view.name}:key"] = np.array(table[key].to_pylist(), dtype=np.str_)
        arrays |= {f"{view.name}:{name}": array for name, array in _columns(table, view).items()}
    np.savez_compressed(path, **arrays)
    return counts


def _first(table: pa.Table, view: View, limit: Limit | None) -> pa.Table:
    """The states that go along."""
    if limit is None:
        return table
    by = limit.by or next(iter(view.fields))
    if by not in view.fields:
        raise InvalidInput(f"view {view.name!r} has no field {by!r}; it has {', '.join(view.fields)}")
    order = "event_timestamp" if view.recent else by
    return table.sort_by([(order, "descending")]).slice(0, limit.count)


def _columns(table: pa.Table, view: View) -> dict[str, Any]:
    """`end` and the joined lists of a recent view; `state[K, fields]` of a refreshed one."""
    if not view.recent:
        return {"state": np.stack([table[name].to_numpy() for name in view.fields], axis=1).astype(np.int64)}
    lists = {name: table[name].combine_chunks() for name in view.fields}
    lengths = pc.list_value_length(lists[next(iter(lists))]).to_numpy(zero_copy_only=False)
    columns = {name: pc.list_flatten(column).to_numpy(zero_copy_only=False) for name, column in lists.items()}
    return columns | {"end": np.cumsum(lengths, dtype=np.int64)}


def _require_small(folder: Path) -> None:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > SIZE_LIMIT:
        raise InvalidInput(
            f"the package without states is {size:,} bytes; wanted at most {SIZE_LIMIT:,}. Serve a smaller model: "
            "int8, fewer trees, a student."
        )
