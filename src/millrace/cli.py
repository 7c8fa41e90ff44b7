"""`millrace`: what is served, where it came from, and changing it; who reads the events; a workload of one's own.

What a command does lives in `millrace.registry` (`models`, `lineage`), `millrace.events.shown` and `millrace.scaffold`.
An error raised on purpose is one message on stderr, without a traceback: status 2 for wrong input, 1 for the rest.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import sys
from collections.abc import Sequence
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from millrace import __version__
from millrace.errors import InvalidInput, MillraceError, NotFound
from millrace.events.shown import add_options as add_event_options
from millrace.events.shown import events
from millrace.lake.disk import writing_to
from millrace.lake.moved import settle
from millrace.printing import accept_any_text
from millrace.reading.options import add_inspect_options
from millrace.registry.lineage import FindVersion, trace, tree
from millrace.registry.models import Registry, served
from millrace.registry.version_store import ModelVersion
from millrace.scaffold.options import add_options as add_new_options
from millrace.settings import Settings, settings

PROGRAMS: Final = {
    "doctor": ("serving.local.doctor.__main__", "Check a home and its machine: what is wrong, and what mends it."),
    "score": ("run.score", "Score the rows of a file with the model that serves, without a server."),
}
"""Commands that are programs of their own, above this package: module and what it does."""
FOLLOWS = "The local runtime follows it by itself where it runs."


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    accept_any_text()
    given = list(sys.argv[1:] if argv is None else argv)
    if given and given[0] in PROGRAMS:
        return _program(given[0], given[1:])

    arguments = _parser().parse_args(given)
    try:
        here = settings(arguments.workload)
        with writing_to(here.home):
            settle(here.home)
            arguments.run(arguments, here)
    except InvalidInput as error:
        return _fail(error, 2)
    except MillraceError as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        return 130
    return 0


def show_lineage(arguments: argparse.Namespace, here: Settings) -> None:
    node = trace(arguments.name, here, _find_version(here))
    _print(node.to_dict(), tree(node), arguments.json)


def show_champion(arguments: argparse.Namespace, here: Settings) -> None:
    champion = served(here)
    if champion is None:
        raise NotFound(f"no model is served from {here.home.resolve()}. Run `make run` to train and promote one.")
    facts = dataclasses.asdict(champion)
    _print(
        facts,
        f"{here.model_name} version {champion.version} (model {champion.artifact_id}) at {champion.uri}",
        arguments.json,
    )


def show_models(arguments: argparse.Namespace, here: Settings) -> None:
    versions = Registry(here).versions()
    table = Table("version", "alias", "model", "snapshot", "registered", title=here.model_name)
    for item in versions:
        snapshot = item.tags.get("snapshot", "")
        table.add_row(str(item.version), ", ".join(item.aliases), item.artifact_id, snapshot, item.created_at)
    _print([dataclasses.asdict(item) for item in versions], table, arguments.json)


def show_audit(arguments: argparse.Namespace, here: Settings) -> None:
    records = Registry(here).history()
    table = Table("when", "who", "action", "from", "to", "snapshot", "run", "reason", title=here.model_name)
    for record in records:
        names = ("at", "who", "action", "from_version", "to_version", "snapshot", "run", "reason")
        canary = {"from_version": record.get("stable_version"), "to_version": record.get("canary_version")}
        values = canary | {name: value for name, value in record.items() if value is not None}
        table.add_row(*("" if values.get(name) is None else str(values[name]) for name in names))
    _print(records, table, arguments.json)


def show_events(arguments: argparse.Namespace, here: Settings) -> None:
    found, view = events(arguments, here)
    _print(found, view, arguments.json)


def show_columns(arguments: argparse.Namespace, here: Settings) -> None:
    from millrace.installed import load
    from millrace.reading.inspect import inspect  # DuckDB: not for the other commands

    _print(*inspect(arguments, load(here.workload)), arguments.json)


def promote(arguments: argparse.Namespace, here: Settings) -> None:
    _report(Registry(here).make_champion(arguments.version, arguments.reason))


def make_new(arguments: argparse.Namespace, _: Settings) -> None:
    from millrace.scaffold.new import new  # DuckDB and Jinja: not for the other commands

    console = Console(width=None if sys.stdout.isatty() else 160)
    folder = new(arguments, console, input if sys.stdin.isatty() else None)
    print(f"Written to {folder}; {folder}/README.md says what to change. Run the whole loop:")
    print(f"  make run WORKLOAD={arguments.name}")


def rollback(arguments: argparse.Namespace, here: Settings) -> None:
    _report(Registry(here).rollback(arguments.reason))


def _program(name: str, argv: Sequence[str]) -> int:
    """Run a program with its own arguments; it is imported by its name, since nothing here may lean on it."""
    try:
        module = importlib.import_module(PROGRAMS[name][0])
    except ModuleNotFoundError as error:
        if error.name != PROGRAMS[name][0].partition(".")[0]:
            raise
        return _fail(NotFound(f"{name} is a program of the checkout, which this installation lacks"), 1)
    status: int = module.main(argv)
    return status


def _find_version(here: Settings) -> FindVersion | None:
    """Looks predictions up in the log; None where this home has none."""
    if not here.prediction_log_url.get_secret_value() and not (here.prediction_log / "log.db").is_file():
        return None

    from millrace.events.log import engine, find_version  # SQLAlchemy: not for the other commands

    def version_of(prediction_id: str) -> int | None:
        log = engine(here)
        try:
            version = find_version(log, prediction_id, here.workload)
        finally:
            log.dispose()
        return int(version) if version is not None and version.isdecimal() else None

    return version_of


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="millrace", description="What is served, where it came from, and changing it."
    )
    parser.add_argument("--version", action="version", version=f"millrace {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, run: Any, text: str, *, shows: bool = False) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        added.add_argument("--workload", default="", help="whose model (default: MILLRACE_WORKLOAD)")
        if shows:
            added.add_argument("--json", action="store_true", help="print JSON")
        else:
            added.add_argument("--reason", default="", help="why; kept in the audit record")
        return added

    command("champion", show_champion, "Show the model version that is served.", shows=True)
    command("models", show_models, "List the model versions and their aliases.", shows=True)
    command(
        "lineage", show_lineage, "Print where a model version, artifact or prediction came from.", shows=True
    ).add_argument("name", metavar="ID", help="version number, alias, artifact id (or its start), or prediction id")
    command("audit", show_audit, "Print who promoted, rolled back or was refused, and why.", shows=True)
    add_event_options(
        command("events", show_events, "Show who reads the event stream, and what was refused.", shows=True)
    )
    add_inspect_options(
        command(
            "inspect",
            show_columns,
            "Show what each column of a file seems to be, and write a columns.yaml.",
            shows=True,
        )
    )
    command("promote", promote, "Make a version the champion; the champion until now becomes `previous`.").add_argument(
        "version", metavar="VERSION", type=int, help="version number, see `millrace models`"
    )
    command("rollback", rollback, "Swap champion and previous champion.")

    for name, (_, text) in PROGRAMS.items():
        commands.add_parser(name, help=text, description=text)
    text = "Write a workload of your own for a table: a small package that runs the loop at once."
    added = commands.add_parser("new", help=text, description=text)
    added.set_defaults(run=make_new, workload="")
    add_new_options(added)
    return parser


def _print(document: Any, view: Any, as_json: bool) -> None:
    if as_json:
        print(json.dumps(document, indent=2, default=str))
    else:
        Console(width=None if sys.stdout.isatty() else 160).print(
            view, soft_wrap=isinstance(view, str), highlight=False
        )


def _report(version: ModelVersion) -> None:
    print(f"champion of {version.name} is version {version.version} (model {version.artifact_id}). {FOLLOWS}")


def _fail(error: MillraceError, status: int) -> int:
    print(f"millrace: {error}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
