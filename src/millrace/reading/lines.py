"""JSON lines: an object a line, or one array of objects; columns are their keys, an object within one level `a.b`.

Values come as text, as those of delimited files do; what is no object is a malformed row.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import duckdb
import pyarrow as pa

from millrace.errors import InvalidInput
from millrace.reading.columns import resolve
from millrace.reading.delimited import LineReader
from millrace.reading.document import ColumnsDocument
from millrace.reading.raw import RawRows
from millrace.reading.sources import SourceFile, TableFile
from millrace.reading.text import Text
from millrace.workload import Schema

_LOOKED_AT: Final = 2000
"""Lines whose keys are the columns of the file."""
_MOST_ARRAY: Final = 1 << 30


class JsonLinesReader(LineReader):
    """One file of JSON objects."""

    def __init__(self, file: SourceFile | TableFile, schema: Schema, document: ColumnsDocument) -> None:
        super().__init__(file, document)
        self._array = self._sample.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")
        self._start = 0
        with self._open() as text:
            start = text.read(len(self._sample))
        paths = _paths(start, file.name)
        self._paths = list(paths.values())
        self._identity = f"{self.encoding}\0json\0".encode() + json.dumps(paths).encode()
        raw = pa.schema([(name, pa.string()) for name in paths])
        self.shape = resolve(raw, schema, document, file.name)

    def _open(self) -> Text:
        text = super()._open()
        if not self._array:
            return text
        with text:
            data = text.read(_MOST_ARRAY)
        return Text(_lines_of(data, self.file.name), "utf-8", self.file.name)

    def _read(self, data: bytes) -> Iterator[RawRows]:
        lines = pa.array(data.decode("utf-8", errors="replace").split("\n"), pa.string())
        with duckdb.connect() as engine:
            engine.execute("SET threads = 1")
            engine.register("lines", pa.table({"line": lines, "line_no": pa.array(range(len(lines)))}))
            filled = "FROM lines WHERE trim(line, ' \t\r') <> '' ORDER BY line_no"
            engine.execute(
                f"CREATE TABLE given AS SELECT line, row_number() OVER (ORDER BY line_no) - 1 AS place {filled}"
            )
            whole = "json_valid(line) AND json_type(line) = 'OBJECT'"
            bad = engine.execute(f"SELECT place, line FROM given WHERE NOT ({whole}) ORDER BY place").fetchall()
            wanted = "SELECT json_extract_string(line, $paths) AS v, place FROM given"
            sql = f"{wanted} WHERE {whole} ORDER BY place"
            found = engine.sql(sql, params={"paths": self._paths}).to_arrow_table()

        names = self.shape.raw.names
        values = found["v"].combine_chunks().flatten()
        width = len(names)
        columns = [values.take(pa.array(range(place, len(values), width), pa.int64())) for place in range(width)]
        rows = found["place"].to_pylist()
        yield RawRows(pa.table(dict(zip(names, columns, strict=True))), rows, bad)


def _paths(start: bytes, name: str) -> dict[str, str]:
    """Column → JSON path, of all keys of the first lines, in the order in which they come."""
    paths: dict[str, str] = {}
    objects = 0
    for line in start.decode("utf-8", errors="replace").split("\n")[:_LOOKED_AT]:
        try:
            item = json.loads(line)
        except ValueError:
            continue
        if isinstance(item, Mapping):
            objects += 1
            paths |= _keys(item, "", "$")
    if not objects:
        raise InvalidInput(f"{name} has no JSON object in its first lines; wanted one a line, or an array of them")
    return paths


def _keys(item: Mapping[str, Any], name: str, path: str, depth: int = 0) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in item.items():
        here = f"{name}.{key}" if name else str(key)
        there = f'{path}."' + str(key).replace('"', '\\"') + '"'
        nested = isinstance(value, Mapping) and depth < 2
        found |= _keys(value, here, there, depth + 1) if nested and value else {here: there}
    return found


def _lines_of(data: bytes, name: str) -> io.BytesIO:
    """An array of objects as lines."""
    try:
        items = json.loads(data)
    except ValueError as error:
        raise InvalidInput(f"{name} is cut off or no JSON: {error}") from error
    return io.BytesIO("\n".join(json.dumps(item, ensure_ascii=False) for item in items).encode() + b"\n")
