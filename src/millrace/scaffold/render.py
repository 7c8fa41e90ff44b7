"""A `Guess` as a package: templates in, files out. Nothing is written over; a folder appears whole or not at all."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import jinja2

from millrace.errors import InvalidInput
from millrace.lake.atomic import replacing_folder
from millrace.scaffold.guess import Column, Guess

TEMPLATES: Final = Path(__file__).with_name("templates")
TAKEN: Final = frozenset({"event_timestamp", "label_timestamp", "everything", "time"})
"""Names that the platform gives columns and entities itself."""
MODULES: Final = (
    "__init__", "schema", "features", "batch", "online", "exchange", "explain", "model", "judging", "watch", "world",
)  # fmt: skip


def write_package(found: Guess, name: str, source: Path, folder: Path, delay_days: int) -> Path:
    """The package `name` for the table at `source`, in `folder`; raises InvalidInput for names that cannot be."""
    _require_name(name)
    _require_columns(found)
    if folder.exists():
        raise InvalidInput(f"{folder} is there already. Remove it, or name another place with --into FOLDER.")

    values = context(found, name, source, delay_days)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - what is written is Python, not HTML
    )
    files = {
        "pyproject.toml": "pyproject.toml.j2",
        "README.md": "README.md.j2",
        f"src/{name}/evaluate.yaml": "evaluate.yaml.j2",
        f"tests/test_{name}.py": "test_workload.py.j2",
        **{f"src/{name}/{module}.py": f"{module}.py.j2" for module in MODULES},
    }

    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing_folder(folder) as aside:
        for path, template in files.items():
            (aside / path).parent.mkdir(parents=True, exist_ok=True)
            (aside / path).write_text(environment.get_template(template).render(values), encoding="utf-8")
    return folder


def context(found: Guess, name: str, source: Path, delay_days: int) -> dict[str, Any]:
    """What the templates say."""
    classes = found.task != "regression"
    ours = {column: field_name(column) for column in found.columns}
    used = (*found.keys, *found.numbers, *found.categories, found.label)
    hashed = ["event_timestamp", *(ours[column] for column in (*found.keys, *found.numbers, *found.categories))]
    aliases = {found.time: "event_timestamp"} | {raw: ours[raw] for raw in used if ours[raw] != raw}

    return {
        "name": name,
        "title": name.replace("_", " ").capitalize(),
        "model_name": name.replace("_", "-"),
        "task": found.task,
        "classes": classes,
        "file": source.name,
        "source": str(source.resolve()),
        "event_id": ours[found.id] if found.id else "event_id",
        "made_id": not found.id,
        "hashed": ", ".join(hashed),
        "time": found.time,
        "keys": [ours[key] for key in found.keys],
        "numbers": [_number(found.columns[column], ours[column]) for column in found.numbers],
        "categories": {ours[column]: levels for column, levels in found.categories.items()},
        "label": ours[found.label],
        "unit": "" if classes else ours[found.label],
        "delay_days": delay_days,
        "aliases": aliases | ({found.id: ours[found.id]} if found.id and ours[found.id] != found.id else {}),
        "left_out": list(found.left_out),
        "stresses": ["no_state", *(f"{ours[column]}_missing" for column in found.numbers)],
        "prevalence": _prevalence(found.columns[found.label]) if classes else 0.0,
        "min_effect": 0.01 if classes else _spread(found.columns[found.label]) / 100,
        "example": _example(found, ours),
    }


def field_name(column: str) -> str:
    """A column's name as a field: lower case, digits and underscores."""
    name = re.sub(r"\W+", "_", column.strip()).strip("_").lower() or "column"
    name = f"c_{name}" if name[0].isdigit() else name
    return f"{name}_" if keyword.iskeyword(name) or name in TAKEN else name


def _number(column: Column, name: str) -> Mapping[str, Any]:
    return {"name": name, "empty": column.nulls > 0, "low": column.low, "high": column.high}


def _prevalence(label: Column) -> float:
    """Share of positives, rounded: what the average precision of guessing is; a half where the table does not say."""
    return round(label.mean, 3) if label.numeric and 0 < label.mean < 1 else 0.5


def _spread(label: Column) -> float:
    return float(label.high) - float(label.low) if label.numeric else 1.0


def _example(found: Guess, ours: Mapping[str, str]) -> str:
    """A request of values that the table has."""
    keys = {ours[key]: str(found.columns[key].low) for key in found.keys}
    numbers = {ours[column]: float(found.columns[column].low) for column in found.numbers}
    texts = {ours[column]: levels[0] for column, levels in found.categories.items()}
    return repr(keys | numbers | texts)


def _require_name(name: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,40}", name) or keyword.iskeyword(name):
        raise InvalidInput(f"{name!r} is no name for a workload; wanted lower-case letters, digits and underscores")


def _require_columns(found: Guess) -> None:
    names: dict[str, str] = {}
    for column in (*found.keys, *found.numbers, *found.categories, found.label):
        other = names.setdefault(field_name(column), column)
        if other != column:
            raise InvalidInput(f"columns {other!r} and {column!r} would both be {field_name(column)!r}. Rename one.")
    if not (found.keys or found.numbers or found.categories):
        raise InvalidInput("no column is left for the model to read. Name keys with --key, or take less out.")
