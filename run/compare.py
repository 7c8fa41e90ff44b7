"""Two model versions or arms side by side: `make compare A=champion B=shadow` (`python -m run.compare A B`).

Reads the prediction log, writes `<home>/report/comparison.html` and `.json`. What is compared:
`millrace.judge.comparison`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from millrace.errors import InvalidInput, MillraceError
from millrace.events.log import engine
from millrace.events.table import read_predictions
from millrace.judge.comparison import COLUMNS, Comparison, compare
from millrace.lake.atomic import write_text
from millrace.report.index import link
from millrace.settings import Settings, settings
from millrace.workload import Judging, load
from run.source import add_workload

if TYPE_CHECKING:
    from millrace.report.page import Page

PAGE = "comparison.html"


def write_report(
    here: Settings,
    a: str,
    b: str,
    since: datetime | None,
    until: datetime | None,
    as_of: datetime,
    resamples: int = 1000,
) -> tuple[Comparison, Path]:
    """Compare predictions with since ≤ event_timestamp < until on the labels known at `as_of`; the page's path."""
    log = engine(here)
    try:
        rows = read_predictions(
            log, here.workload, since, until, with_labels_known_at=as_of, columns=COLUMNS, by="event_timestamp"
        )
    finally:
        log.dispose()
    judging = load(here.workload).judging
    found = compare(rows, a, b, judging.LOG_COLUMNS, k=here.review_capacity, resamples=resamples)
    path = here.home / "report" / PAGE
    page(found, judging, as_of, here.review_capacity, resamples).write(path)
    write_text(path.with_suffix(".json"), json.dumps(found.to_dict() | {"as_of": as_of.isoformat()}, indent=2) + "\n")
    link(here.home, PAGE)
    return found, path


def page(found: Comparison, judging: Judging, as_of: datetime, k: int, resamples: int) -> Page:
    """The report as people read it."""
    from millrace.report.page import Page

    a, b = found.a, found.b
    made = Page(
        f"{b.name} against {a.name}", f"A is {a.name}, B is {b.name}; labels known at {as_of:%Y-%m-%d %H:%M} UTC"
    )
    made.heading("In short").text(summary(found))
    facts = a.facts(), b.facts()
    made.heading("The two sides").table(["", "A", "B"], [[name, facts[0][name], facts[1][name]] for name in facts[0]])
    if found.decisions:
        made.heading("Decisions", f"{found.paired_rows:,} transactions that both scored.")
        rows = [[f"A: {one}", *row.values()] for one, row in found.decisions.items()]
        made.table(["", "B: review", "B: approve"], rows)
    made.heading(
        "Scores", f"Population stability index {found.psi:.3f}; above 0.1 look closer, above 0.25 they differ."
    )
    made.figures(*_plots(found))
    columns = ["quantile", "A", "B", "B - A, of the same transaction"]
    made.table(columns, [[q, *pair, found.difference_quantiles.get(q)] for q, pair in found.quantiles.items()])
    basis = "the same transactions" if found.paired_rows else "each side's own transactions, k shared by their number"
    made.heading("Who is better", f"On {basis}. Intervals: {resamples:,} bootstrap resamples of customers, 95 %.")
    if not found.metrics:
        return made.text("No frauds are known on both sides yet: load labels with `make labels FILE=…` and come back.")
    made.table(
        ["", "A", "B", "B - A", "from", "to"],
        [
            [name.replace("unit", judging.UNIT_NOUN[0]), x, y, change.value, change.low, change.high]
            for name, (x, y, change) in found.metrics.items()
        ],
    )
    names = [f"{what} on side {side}" for what in ("labelled", "frauds") for side in "AB"]
    return made.facts(dict(zip(names, (*found.labelled, *found.positives), strict=True)) | {"k": k})


def summary(found: Comparison) -> str:
    """One or two sentences."""
    agree = (
        ""
        if found.agreement is None
        else f"They decide alike on {found.agreement:.2%} of {found.paired_rows:,} transactions. "
    )
    if not found.paired_rows:
        agree = "They scored different transactions. "
    if "average precision" not in found.metrics:
        return agree + "Which one is better cannot be said before labels are in."
    change = found.metrics["average precision"][2]
    verdict = (
        "no difference can be told"
        if change.low <= 0 <= change.high
        else f"{'B' if change.value > 0 else 'A'} is better"
    )
    return f"{agree}Average precision, B - A: {change}: {verdict}."


def _plots(found: Comparison) -> list[tuple[Any, str]]:
    from millrace.report.page import COLOURS, figure, legend

    plot, axes = figure("Scores", "score", "share of transactions")
    edges = np.linspace(0, 1, 41)
    for colour, name, one in zip(COLOURS, ("A", "B"), (found.a, found.b), strict=False):
        share = np.histogram(one.scores, edges)[0] / max(1, len(one.scores))
        axes.stairs(share, edges, color=colour, label=name, linewidth=1.4)
    axes.set_yscale("log")
    legend(axes)
    plots = [(plot, "Shares on a log scale: most scores are small.")]
    if found.paired_rows:
        plots.append((_differences(found), "Of the same transaction; the closer to the diagonal, the more alike."))
    return plots


def _differences(found: Comparison) -> Any:
    from millrace.report.page import COLOURS, MUTED, figure

    ids_a, ids_b = (one.rows["transaction_id"].to_numpy() for one in (found.a, found.b))
    _, place_a, place_b = np.intersect1d(ids_a, ids_b, assume_unique=True, return_indices=True)
    thin = np.random.default_rng(0).permutation(len(place_a))[:4000]
    plot, axes = figure("A against B", "score of A", "score of B")
    axes.scatter(
        found.a.scores[place_a[thin]], found.b.scores[place_b[thin]], s=4, alpha=0.35, color=COLOURS[0], linewidths=0
    )
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8)
    return plot


def instant(text: str) -> datetime:
    """ISO 8601, a day or a time; UTC where it has no offset."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput(
            f"{text!r} is no time; wanted ISO 8601, such as 2018-09-30 or 2018-09-30T12:00:00Z"
        ) from error
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the report and say where it is; 1 for an error."""
    parser = argparse.ArgumentParser(prog="python -m run.compare", description=__doc__)
    parser.add_argument("a", metavar="A", help="champion, challenger, shadow, or a model version")
    parser.add_argument("b", metavar="B", help="likewise")
    parser.add_argument("--since", help="first transaction time (default: all)")
    parser.add_argument("--until", help="end of transaction times, exclusive")
    parser.add_argument("--as-of", help="labels known then count (default: now)")
    add_workload(parser)
    options = parser.parse_args(argv)
    try:
        if not options.a or not options.b:
            raise InvalidInput("two sides are wanted: make compare A=champion B=shadow, or A=3 B=4")
        since, until = (instant(text) if text else None for text in (options.since, options.until))
        as_of = instant(options.as_of) if options.as_of else datetime.now(UTC)
        found, path = write_report(settings(options.workload), options.a, options.b, since, until, as_of)
    except MillraceError as error:
        print(f"compare: {error}", file=sys.stderr)
        return 1
    print(f"{summary(found)}\n{path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
