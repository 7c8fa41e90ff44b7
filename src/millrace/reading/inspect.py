"""`millrace inspect FILE…`: what each column of a source seems to be, what is missing, a columns.yaml to go on with.

The same guess is made by whoever starts from a source without a columns document (`settled`).
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table

from millrace.errors import InvalidInput
from millrace.installed import Workload
from millrace.lake.atomic import write_text
from millrace.reading.document import ColumnsDocument, merged
from millrace.reading.fit import require_fit
from millrace.reading.guess import Guess, guess
from millrace.reading.options import document_from
from millrace.reading.profile import MOST_ROWS, Column, profile, sample
from millrace.reading.roles import UNSURE, Role, flow
from millrace.uris import redacted


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of a source."""

    source: str
    columns: list[Column]
    found: Guess
    document: ColumnsDocument
    """What was said and what was guessed, together; what is open is not in it."""
    files: int


def look(source: str, workload: Workload, said: ColumnsDocument) -> Seen:
    """Where the first rows leave a question, such as which number of a date is the day, all are looked at.

    Raises what reading the source raises.
    """
    seen = _look(source, workload, said, throughout=False)
    return _look(source, workload, said, throughout=True) if seen.found.questions else seen


def _look(source: str, workload: Workload, said: ColumnsDocument, *, throughout: bool) -> Seen:
    table, files = sample(source, workload.schema, said, throughout=throughout)
    columns = profile(table)
    taken = {name for one in said.columns.values() for name in one.names}
    everything = guess([column for column in columns if column.name not in taken], workload.schema)

    found = Guess(
        [role for role in everything.roles if role.field not in said.columns],
        [question for question in everything.questions if _field_of(question) not in said.columns],
        everything.others,
    )
    open_fields = {_field_of(question) for question in found.questions}
    guessed = {name: one for name, one in found.columns(workload.schema).items() if name not in open_fields}
    return Seen(source, columns, found, merged(said, {"columns": guessed}), files)


def settled(
    source: str, workload: Workload, said: ColumnsDocument, *, labels: bool = True
) -> tuple[ColumnsDocument, list[str]]:
    """The document that a source is read with, and a line for each field that was guessed.

    Raises InvalidInput with the lines that somebody must settle; without `labels` a label is none of them.
    """
    seen = look(source, workload, said)
    label = workload.schema.LABEL.column
    questions = [question for question in seen.found.questions if labels or _field_of(question) != label]
    if questions:
        raise InvalidInput(_asked(seen, questions))

    require_fit(seen.document, workload.schema, redacted(source))
    guessed = seen.found.columns(workload.schema)
    return seen.document, [_told(role) for role in seen.found.roles if role.field in guessed]


def _field_of(question: str) -> str:
    return question.partition(":")[0]


def _asked(seen: Seen, questions: Sequence[str]) -> str:
    source = redacted(seen.source)
    listed = "\n".join(f"  {question}" for question in questions)
    columns = ", ".join(column.name for column in seen.columns)
    return (
        f"{source} leaves {len(questions)} to settle, under `columns:` of a columns.yaml:\n{listed}\n"
        f"It has the columns {columns}. Write a first one, change it and name it:\n"
        f"  millrace inspect {source!r} --write columns.yaml\n  … --columns columns.yaml (make: MAP=columns.yaml)"
    )


def _told(role: Role) -> str:
    return f"{role.field} from {flow(role.source)}" + (f" ({role.note})" if role.note else "")


def inspect(arguments: argparse.Namespace, workload: Workload) -> tuple[list[dict[str, Any]], Group]:
    """What was seen, as data and for people; writes the document where that was asked for.

    Raises InvalidInput where the document is there already.
    """
    if arguments.write and arguments.write.exists() and not arguments.force:
        raise InvalidInput(f"{arguments.write} is there already. Write over it with --force, or name another file.")
    said = document_from(arguments)
    seen = [look(source, workload, said) for source in arguments.source]
    if arguments.write:
        write_text(arguments.write, written(seen[0], workload))
    views = [_view(one, workload, arguments.write) for one in seen]
    return [_data(one) for one in seen], Group(*(part for parts in views for part in parts))


def written(seen: Seen, workload: Workload) -> str:
    """The document as YAML with comments: what is guessed, what is open, what could be a feature."""
    document = seen.document.argument()
    lines = [f"# How {redacted(seen.source)} is read as events of {workload.name}: docs/your-data.md."]
    if "read" in document:
        lines.append(f"read: {flow(document['read'])}")

    lines.append("columns:")
    sure = [role for role in seen.found.roles if role.how_sure != UNSURE]
    columns = {role.field: role.source for role in sure} | document.get("columns", {})
    notes = {role.field: "; ".join(filter(None, (role.how_sure, role.note))) for role in sure}
    lines += [f"  {name}: {flow(source)}    # {notes.get(name, 'as it was said')}" for name, source in columns.items()]
    lines += [f"  # TO SETTLE: {question}" for question in seen.found.questions]

    offered = [column for column in seen.found.others if column.filled]
    if offered:
        lines.append(
            "# Columns that the model could read, too (docs/your-features.md): take the # from `features:` and theirs."
        )
        lines.append("# features:")
        lines += [_offered(column) for column in offered]
    return "\n".join(lines) + "\n"


def _offered(column: Column) -> str:
    """The line of a column that could be a feature."""
    name = re.sub(r"\W", "_", column.name.lower()).strip("_") or "column"
    if name[0].isdigit():
        name = f"c_{name}"

    kind = _kind(column)
    many = kind == "categorical" and column.distinct > 0.5 * column.filled
    doubt = "    # nearly every row has a value of its own" if many else ""
    return f"#   {name}: {{column: {flow(column.name)}, kind: {kind}}}{doubt}"


def _kind(column: Column) -> str:
    """The kind of feature that a column could be."""
    if column.time and not column.numeric:
        return "time"
    if len(column.levels) == 2 and {level.lower() for level in column.levels} <= {"0", "1", "true", "false"}:
        return "boolean"
    few_codes = column.whole and column.levels
    return "numeric" if column.numeric and not few_codes else "categorical"


def _view(seen: Seen, workload: Workload, target: Path | None) -> list[Any]:
    """What people see: a table of the columns, and lines below it."""
    rows = seen.columns[0].rows
    first = ", the first of them" if rows >= MOST_ROWS // 2 else ""
    lines = [f"{rows:,} rows of {seen.files} files were looked at{first}"]

    for role in seen.found.roles:
        if not role.columns or not isinstance(role.source, str):
            lines.append(f"{role.field}: {flow(role.source)}" + (f"    # {role.note}" if role.note else ""))
    lines += [f"to settle: {question}" for question in seen.found.questions]

    label = workload.schema.LABEL.column
    if label in map(_field_of, seen.found.questions):
        lines.append(f"Without {label} no model can be trained; `millrace score` needs none.")
    lines.append(_next(seen, workload, target))
    return [_table(seen), "\n".join(lines)]


def _table(seen: Seen) -> Table:
    roles = {name: role for role in seen.found.roles for name in role.columns}
    table = Table("column", "taken for", "how sure", "is", "range", "empty", "for example", title=redacted(seen.source))
    for column in seen.columns:
        role = roles.get(column.name)
        taken, how_sure = (role.field, role.how_sure) if role else ("", "")
        examples = ", ".join(column.examples[:2])
        table.add_row(column.name, taken, how_sure, _type(column), _span(column), _empty(column), examples)
    return table


def _type(column: Column) -> str:
    return f"{column.type} {column.formats[0]}" if column.formats else column.type


def _span(column: Column) -> str:
    if column.low is None or column.high is None:
        return ""
    return f"{column.low:g} … {column.high:g}"


def _empty(column: Column) -> str:
    return f"{1 - column.filled / column.rows:.1%}" if column.filled < column.rows else ""


def _next(seen: Seen, workload: Workload, target: Path | None) -> str:
    if seen.found.questions:
        return f"next: settle the lines above in {target or 'a columns.yaml (--write columns.yaml)'}"
    then = f" MAP={target}" if target else ""
    return f"next: make run WORKLOAD={workload.name} DATA={redacted(seen.source)!r}{then}"


def _data(seen: Seen) -> dict[str, Any]:
    return {
        "source": redacted(seen.source),
        "files": seen.files,
        "columns": [dataclasses.asdict(column) for column in seen.columns],
        "roles": [dataclasses.asdict(role) for role in seen.found.roles],
        "to_settle": seen.found.questions,
        "document": seen.document.argument(),
    }
