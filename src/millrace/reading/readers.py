"""The reader for a file's format."""

from __future__ import annotations

from millrace.reading.columnar import ParquetReader
from millrace.reading.delimited import DelimitedReader
from millrace.reading.document import ColumnsDocument
from millrace.reading.lines import JsonLinesReader
from millrace.reading.raw import Reader
from millrace.reading.sources import SourceFile, TableFile
from millrace.reading.unpacked import Format
from millrace.workload import Schema


def open_reader(file: SourceFile | TableFile, schema: Schema, document: ColumnsDocument) -> Reader:
    """Raises SchemaMismatch and InvalidInput, which name the file."""
    if isinstance(file, SourceFile) and file.format is Format.PARQUET:
        return ParquetReader(file, schema, document)
    if file.format is Format.JSON:
        return JsonLinesReader(file, schema, document)
    return DelimitedReader(file, schema, document)
