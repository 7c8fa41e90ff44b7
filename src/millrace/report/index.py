"""Pages of a workload that come after the run that wrote their index, `<home>/report/<workload>/index.html`.

A run writes the index anew and asks `pages` what else is there; who writes a page later calls `link`, which adds it to
the index that is there, or begins one.
"""

from __future__ import annotations

import html
from pathlib import Path
from typing import Final

from millrace.lake.atomic import exclusive, write_text

TITLES: Final = {
    "outcomes.html": "Outcome report",
    "drift.html": "Drift report",
    "comparison.html": "Comparison of two models",
    "drill.html": "The drill: 60 days",
}
"""Pages that may be there, and what they are called; in the order of the links."""


def pages(folder: Path) -> dict[str, str]:
    """Title → file name of each page that exists."""
    return {title: name for name, title in TITLES.items() if (folder / name).is_file()}


def link(folder: Path, name: str) -> Path:
    """Make the folder's index lead to page `name`, once; the index. Raises KeyError for one without a title."""
    index = folder / "index.html"
    item = f'<li><a href="{html.escape(name)}">{html.escape(TITLES[name])}</a></li>'
    with exclusive(folder / ".lock", "a change to the index of reports"):
        if not index.is_file():
            from millrace.report.page import Page  # matplotlib: only where a page is drawn

            Page("Millrace", "reports").heading("Reports").links({TITLES[name]: name}).write(index)
        elif f'href="{html.escape(name)}"' not in (text := index.read_text(encoding="utf-8")):
            write_text(index, text.replace("</main>", f"<ul>{item}</ul>\n</main>", 1))
    return index
