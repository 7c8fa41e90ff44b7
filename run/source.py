"""How people say what to read: ingest's options on a command line, for programs that start with raw events."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from components.ingest.config import IngestConfig
from millrace.errors import InvalidInput
from millrace.installed import Workload, declare, load
from millrace.observe.progress import log
from millrace.reading import options
from millrace.reading.document import EMPTY, ColumnsDocument
from millrace.reading.tables import is_database
from millrace.settings import Settings, settings
from millrace.variants.document import names_in

SIMULATED: Final = "simulated"
"""Profile of a workload's own world."""
OWN: Final = "_own"
"""Ends the name of a workload's variant with columns of one's own, where nothing else was said."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestOptions:
    """How a source is written that is not written as ours are."""

    columns: ColumnsDocument = EMPTY

    @staticmethod
    def add_to(parser: argparse.ArgumentParser) -> None:
        options.add_to(parser)
        add_workload(parser)

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> IngestOptions:
        """Raises NotFound, ConfigError and InvalidInput, which name what was said."""
        return cls(columns=options.document_from(arguments))

    def settled(self, source: str, workload: Workload, *, labels: bool = True) -> IngestOptions:
        """With a guess for what was not said, each told in a line; a source in our words leaves nothing to guess.

        Raises InvalidInput with the lines that somebody must settle; without `labels` a label is none of them.
        """
        from millrace.reading.inspect import settled  # DuckDB, and a look at the files

        columns, lines = settled(absolute(source), workload, self.columns, labels=labels)
        for line in lines:
            log("reads", column=line)
        return replace(self, columns=columns)

    def config(self, settings: Settings) -> IngestConfig:
        """The same for the verb itself."""
        return IngestConfig(
            workload=settings.workload,
            pseudonym_key=settings.pseudonym_secret(),
            columns=self.columns,
            memory_limit_gb=settings.memory_limit_gb,
            threads=settings.threads,
        )


def add_workload(parser: argparse.ArgumentParser) -> None:
    """`--workload NAME`, for `millrace.settings.settings`."""
    parser.add_argument("--workload", default="", help="what is modelled, by name (default: MILLRACE_WORKLOAD)")


def add_name(parser: argparse.ArgumentParser) -> None:
    """`--name NAME`, for `named`."""
    parser.add_argument(
        "--name",
        default="",
        help="a model of its own, beside the workload's: its champion, service and online store are called so",
    )


def named(workload: str, name: str, columns: ColumnsDocument = EMPTY) -> Settings:
    """Settings of a workload, or of its variant that is called `name`, which is declared in the home for good.

    Columns that the model is to read make a variant of a workload that none was named of, too: its name with OWN behind
    it. Raises ConfigError for a name or a column that no variant can have.
    """
    here = settings(workload)
    meant = load(here.workload)
    own = columns.argument()
    told = {part: own[part] for part in ("features", "aggregates") if part in own}
    if not name and not told:
        return here

    name = name or (meant.name if meant.document else f"{meant.name}{OWN}")
    base = _base(meant)
    if told or not _declared(name, base, here):
        declare({"name": name, "base": base, **told}, here.home)
    return settings(name)


def _declared(name: str, base: str, here: Settings) -> bool:
    """Whether the home has this variant: who names it again without its columns means it as it is."""
    return name in names_in(here.home) and _base(load(name, home=here.home)) == base


def document_of(here: Settings) -> dict[str, Any]:
    """The document of a variant, for the steps of a pipeline that runs where no home has it; empty of others."""
    document: dict[str, Any] = json.loads(load(here.workload).document or "{}")
    return document


def _base(workload: Workload) -> str:
    """The name of the package that a workload is made of."""
    base: str = json.loads(workload.document)["base"] if workload.document else workload.name
    return base


def add_gates(parser: argparse.ArgumentParser) -> None:
    """`--profile NAME` and `--accept RULE=REASON`, for programs whose pipeline has gates."""
    parser.add_argument(
        "--profile",
        help="kind of data, whose limits are demanded: a file of the workload's profiles (default: any data)",
    )
    parser.add_argument(
        "--accept",
        action="append",
        default=[],
        metavar="RULE=REASON",
        help="go on although this rule of a gate fails or cannot be measured; kept with the model; repeat as needed",
    )


def gates(options: argparse.Namespace) -> dict[str, Any]:
    """The pipeline's arguments of `add_gates`; raises InvalidInput for an acceptance without a reason."""
    accept = {}
    for item in options.accept:
        name, separator, reason = item.partition("=")
        if not separator or not reason.strip():
            raise InvalidInput(f"--accept {item!r}: wanted RULE=REASON, such as --accept 'test_positives=a trial'")
        accept[name.strip()] = reason.strip()
    return {"accept": accept} | ({} if options.profile is None else {"profile": options.profile})


def profile_of(source: str, settings: Settings) -> str:
    """Which limits fit: the simulator's for what the workload's own world made in this home, else those of any data."""
    return SIMULATED if Path(source).is_relative_to(_worlds(settings)) else ""


def _worlds(settings: Settings) -> Path:
    return (settings.home / "raw" / settings.workload).absolute()


def simulated(settings: Settings) -> str:
    """Folder of the events that the workload's own world makes, once per home."""
    return str(load(settings.workload).world.simulate(_worlds(settings)))


def absolute(source: str) -> str:
    """A local path as seen from anywhere; a URI as it is."""
    return source if "://" in source or is_database(source) else str(Path(source).expanduser().absolute())
