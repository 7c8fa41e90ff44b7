"""Two model versions or arms side by side: `make compare A=champion B=shadow` (`python -m run.compare A B`).

Reads the prediction log, writes `<home>/report/<workload>/comparison.html` and `.json`. What is compared:
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
from millrace.installed import Workload, load
from millrace.judge.comparison import Comparison, compare
from millrace.judge.outcomes import columns_of
from millrace.lake.atomic import write_text
from millrace.report.index import link
from millrace.settings import Settings, settings
from millrace.workload import Task
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
    log, workload = engine(here), load(here.workload)
    try:
        columns = columns_of(workload.name)
        known = {"with_labels_known_at": as_of, "columns": columns, "by": "event_timestamp"}
        rows = read_predictions(log, workload.name, since, until, **known)
    finally:
        log.dispose()
    found = compare(rows, a, b, workload, k=here.review_capacity, resamples=resamples)
    path = here.reports / PAGE
    page(found, workload, as_of, here.review_capacity, resamples).write(path)
    write_text(path.with_suffix(".json"), json.dumps(found.to_dict() | {"as_of": as_of.isoformat()}, indent=2) + "\n")
    link(here.reports, PAGE)
    return found, path


def page(found: Comparison, workload: Workload, as_of: datetime, k: int, resamples: int) -> Page:
    """The report as people read it."""
    from millrace.report.page import Page

    a, b, events = found.a, found.b, workload.event[1]
    made = Page(
        f"{b.name} against {a.name}", f"A is {a.name}, B is {b.name}; labels known at {as_of:%Y-%m-%d %H:%M} UTC"
    )
    made.heading("In short").text(summary(found, workload))
    facts = a.facts(), b.facts()
    made.heading("The two sides").table(["", "A", "B"], [[name, facts[0][name], facts[1][name]] for name in facts[0]])
    if found.decisions:
        made.heading("Decisions", f"{found.paired_rows:,} {events} that both scored.")
        rows = [[f"A: {one}", *row.values()] for one, row in found.decisions.items()]
        made.table(["", "B: review", "B: approve"], rows)
    made.heading(
        "Scores", f"Population stability index {found.psi:.3f}; above 0.1 look closer, above 0.25 they differ."
    )
    made.figures(*_plots(found, workload))
    columns = ["quantile", "A", "B", f"B - A, of the same {workload.event[0]}"]
    made.table(columns, [[q, *pair, found.difference_quantiles.get(q)] for q, pair in found.quantiles.items()])
    return _better(made, found, workload, k, resamples)


def _better(made: Page, found: Comparison, workload: Workload, k: int, resamples: int) -> Page:
    """Which side is better, by the labels that are known."""
    judging, events = workload.judging, workload.event[1]
    shared = ", k shared by their number" if workload.task is Task.RANKING else ""
    basis = f"the same {events}" if found.paired_rows else f"each side's own {events}{shared}"
    drawn = f"{resamples:,} bootstrap resamples of {judging.UNIT.replace('_', ' ')}s"
    made.heading("Who is better", f"On {basis}. Intervals: {drawn}, 95 %.")
    if not found.metrics:
        missing = "labels" if found.positives is None else _positives(workload)
        return made.text(
            f"No {missing} are known on both sides yet: load labels with `make labels FILE=…` and come back."
        )
    made.table(
        ["", "A", "B", "B - A", "from", "to"],
        [
            [name.replace("unit", judging.UNIT_NOUN[0]), x, y, change.value, change.low, change.high]
            for name, (x, y, change) in found.metrics.items()
        ],
    )
    counted = {"labelled": found.labelled}
    if found.positives is not None:
        counted[_positives(workload)] = found.positives
    facts: dict[str, Any] = {
        f"{what} on side {side}": count
        for what, both in counted.items()
        for side, count in zip("AB", both, strict=True)
    }
    return made.facts(facts | ({"k": k} if workload.task is Task.RANKING else {}))


def _positives(workload: Workload) -> str:
    return workload.ranked.POSITIVE_NOUN[1] if workload.task is Task.RANKING else "positives"


def summary(found: Comparison, workload: Workload) -> str:
    """One or two sentences."""
    events = workload.event[1]
    agree = (
        ""
        if found.agreement is None
        else f"They decide alike on {found.agreement:.2%} of {found.paired_rows:,} {events}. "
    )
    if not found.paired_rows:
        agree = f"They scored different {events}. "
    if not found.metrics:
        return agree + "Which one is better cannot be said before labels are in."
    name, (_, _, change) = next(iter(found.metrics.items()))
    gain = -change.value if workload.task is Task.REGRESSION else change.value
    verdict = "no difference can be told" if change.low <= 0 <= change.high else f"{'B' if gain > 0 else 'A'} is better"
    return f"{agree}{name.capitalize()}, B - A: {change}: {verdict}."


def _plots(found: Comparison, workload: Workload) -> list[tuple[Any, str]]:
    from millrace.report.page import COLOURS, figure, legend

    quantity = workload.task is Task.REGRESSION
    low, high = _range(found) if quantity else (0.0, 1.0)
    unit = f"score, {workload.schema.LABEL.unit}" if quantity else "score"
    plot, axes = figure("Scores", unit, f"share of {workload.event[1]}")
    edges = np.linspace(low, high, 41)
    for colour, name, one in zip(COLOURS, ("A", "B"), (found.a, found.b), strict=False):
        share = np.histogram(one.scores, edges)[0] / max(1, len(one.scores))
        axes.stairs(share, edges, color=colour, label=name, linewidth=1.4)
    axes.set_yscale("log")
    legend(axes)
    plots = [(plot, "Shares on a log scale." if quantity else "Shares on a log scale: most scores are small.")]
    if found.paired_rows:
        same = f"Of the same {workload.event[0]}; the closer to the diagonal, the more alike."
        plots.append((_differences(found, workload.schema.EVENT_ID, (low, high)), same))
    return plots


def _range(found: Comparison) -> tuple[float, float]:
    """Where nearly all scores of both sides lie."""
    scores = np.concatenate([found.a.scores, found.b.scores])
    low, high = np.quantile(scores, [0.0, 0.995])
    return float(low), float(max(high, low + 1e-9))


def _differences(found: Comparison, event_id: str, ends: tuple[float, float]) -> Any:
    from millrace.report.page import COLOURS, MUTED, figure

    ids_a, ids_b = (one.rows[event_id].to_numpy() for one in (found.a, found.b))
    _, place_a, place_b = np.intersect1d(ids_a, ids_b, assume_unique=True, return_indices=True)
    thin = np.random.default_rng(0).permutation(len(place_a))[:4000]
    plot, axes = figure("A against B", "score of A", "score of B")
    axes.scatter(
        found.a.scores[place_a[thin]], found.b.scores[place_b[thin]], s=4, alpha=0.35, color=COLOURS[0], linewidths=0
    )
    axes.plot(ends, ends, color=MUTED, linewidth=0.8)
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
    parser.add_argument("--since", help="first event time (default: all)")
    parser.add_argument("--until", help="end of event times, exclusive")
    parser.add_argument("--as-of", help="labels known then count (default: now)")
    add_workload(parser)
    options = parser.parse_args(argv)
    try:
        if not options.a or not options.b:
            raise InvalidInput("two sides are wanted: make compare A=champion B=shadow, or A=3 B=4")
        since, until = (instant(text) if text else None for text in (options.since, options.until))
        as_of = instant(options.as_of) if options.as_of else datetime.now(UTC)
        here = settings(options.workload)
        found, path = write_report(here, options.a, options.b, since, until, as_of)
    except MillraceError as error:
        print(f"compare: {error}", file=sys.stderr)
        return 1
    print(f"{summary(found, load(here.workload))}\n{path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
