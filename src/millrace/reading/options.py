"""What people say about a source on a command line: a columns document, and short ways to say parts of one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from millrace.reading.document import EMPTY, ColumnsDocument, merged, parse_column_map, read_document


def add_to(parser: argparse.ArgumentParser) -> None:
    """`--columns FILE`, and options that are merged into what it says."""
    parser.add_argument(
        "--columns", type=Path, metavar="FILE", help="columns.yaml: how the source is written (docs/your-data.md)"
    )
    parser.add_argument(
        "--column-map",
        action="append",
        default=[],
        metavar="THEIRS=OURS",
        help="a column that has another name than ours; may be repeated",
    )
    parser.add_argument("--timezone", default="", help="of times without an offset, like Europe/Berlin (default UTC)")
    parser.add_argument("--delimiter", default="", help="of delimited text; found out by default")
    parser.add_argument("--encoding", default="", help="of delimited text; found out by default")


def document_from(arguments: argparse.Namespace) -> ColumnsDocument:
    """The document that these arguments come to; options win over the file.

    Raises NotFound for a file that is not there, ConfigError and InvalidInput for what is wrong in it.
    """
    document = read_document(arguments.columns) if arguments.columns else EMPTY
    names = ("timezone", "delimiter", "encoding")
    read: dict[str, Any] = {name: getattr(arguments, name) for name in names if getattr(arguments, name)}
    return merged(document, {"read": read, "columns": parse_column_map(",".join(arguments.column_map))})


def add_inspect_options(parser: argparse.ArgumentParser) -> None:
    """What `millrace inspect` takes."""
    parser.add_argument("source", nargs="+", metavar="FILE", help="files, folders, globs, URIs, or a database's table")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write a columns.yaml to go on with")
    parser.add_argument("--force", action="store_true", help="write over one that is there")
    add_to(parser)
