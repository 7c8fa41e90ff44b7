"""Self-contained HTML reports: text, tables, verdicts and figures on one page, no network, no script.

Values go in, one HTML file comes out; plots are drawn by their component with `figure()` and embedded. The look of
the page is `templates/report.html`.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import jinja2
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from millrace.judge.gates import Verdict
from millrace.lake.atomic import write_text

INK, MUTED, GRID = "#1f2430", "#6b7280", "#e6e8ec"
COLOURS: Final = ("#2563eb", "#d97706", "#0d9488", "#7c3aed", "#db2777")
"""Series in order; distinguishable in greyscale and to most colour-blind readers."""
GOOD, BAD = "#15803d", "#b91c1c"


@dataclass(frozen=True, slots=True)
class Block:
    """One piece of a page; the template knows how each kind is drawn."""

    kind: Literal["heading", "text", "table", "facts", "links", "verdict", "figures"]
    content: Any
    caption: str = ""


@dataclass(slots=True)
class Page:
    """A report being written; every method appends and returns the page."""

    title: str
    subtitle: str = ""
    passed: bool | None = None
    blocks: list[Block] = field(default_factory=list)

    def heading(self, text: str, lead: str = "") -> Page:
        return self._add(Block("heading", text, lead))

    def text(self, text: str) -> Page:
        return self._add(Block("text", text))

    def facts(self, facts: dict[str, Any]) -> Page:
        """Names and values, side by side."""
        return self._add(Block("facts", {name: show(value) for name, value in facts.items()}))

    def links(self, targets: dict[str, str]) -> Page:
        """Names and where they lead, relative to the page."""
        return self._add(Block("links", targets))

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "") -> Page:
        """Cells may be anything `show` can print; a column whose cells are all numbers is set to the right."""
        rows = [list(row) for row in rows]
        numeric = [bool(rows) and all(_is_number(row[i]) for row in rows) for i in range(len(columns))]
        shown = [[show(cell) for cell in row] for row in rows]
        return self._add(Block("table", {"columns": columns, "rows": shown, "numeric": numeric}, caption))

    def verdict(self, verdict: Verdict) -> Page:
        """Every rule with value, limit and pass, failures first; also sets the badge at the top."""
        self.passed = verdict.passed if self.passed is None else self.passed and verdict.passed
        rules = sorted(verdict.rules, key=lambda rule: (not rule.blocks, rule.passed))
        rows = [
            {
                "passed": rule.passed,
                "accepted": rule.accepted,
                "name": rule.name,
                "value": "not measured" if rule.value is None else show(rule.value),
                "limit": f"{rule.comparison.replace('<=', '≤').replace('>=', '≥')} {show(rule.limit)}",
                "detail": rule.detail,
            }
            for rule in rules
        ]

        return self._add(Block("verdict", rows, verdict.summary().splitlines()[0]))

    def figures(self, *figures: tuple[Figure, str]) -> Page:
        """Plots side by side, each with its caption."""
        return self._add(Block("figures", [{"src": data_uri(plot), "caption": caption} for plot, caption in figures]))

    def html(self) -> str:
        """The whole page; every value is escaped."""
        loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
        environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
        return environment.get_template("report.html").render(page=self)

    def write(self, path: Path) -> None:
        write_text(path, self.html())

    def _add(self, block: Block) -> Page:
        self.blocks.append(block)
        return self


def show(value: Any) -> str:
    """A value as people read it: three decimals or digits, thousands separated, a dash for what is not there."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3f}" if 0.01 <= abs(value) < 10 else f"{value:.3g}"
    return str(value)


def figure(title: str, x: str, y: str, width: float = 4.6, height: float = 3.1) -> tuple[Figure, Axes]:
    """An empty plot in the reports' style, sizes in inches; no global state is touched."""
    plot = Figure(figsize=(width, height), dpi=144)
    FigureCanvasAgg(plot)

    # Fixed margins: the layout engines draw every plot twice.
    axes = plot.add_axes((0.65 / width, 0.5 / height, 1 - 0.8 / width, 1 - 0.82 / height))
    axes.set_title(title, fontsize=9.5, fontweight="bold", color=INK, loc="left")
    axes.set_xlabel(x, fontsize=8, color=MUTED)
    axes.set_ylabel(y, fontsize=8, color=MUTED)
    axes.tick_params(labelsize=7.5, colors=MUTED, length=0)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)

    for spine in axes.spines.values():
        spine.set_visible(False)
    return plot, axes


def legend(axes: Axes, **options: Any) -> None:
    """The axes' legend, without a frame."""
    axes.legend(fontsize=7.5, frameon=False, labelcolor=INK, **options)


def data_uri(plot: Figure) -> str:
    """The plot as PNG inside a data URI."""
    stream = io.BytesIO()
    plot.savefig(stream, format="png", metadata={"Software": None})
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def _is_number(cell: Any) -> bool:
    return cell is None or (isinstance(cell, int | float) and not isinstance(cell, bool))
