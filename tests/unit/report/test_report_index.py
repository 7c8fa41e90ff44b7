"""Pages that come after a run are reachable from its index, once each."""

from pathlib import Path

import pytest

from millrace.report.index import link, pages


def test_a_page_is_linked_once_from_an_index_that_is_there(tmp_path: Path) -> None:
    index = tmp_path / "index.html"
    index.write_text("<main><p>a run</p></main>")

    link(tmp_path, "outcomes.html")
    link(tmp_path, "outcomes.html")
    link(tmp_path, "drill.html")

    text = index.read_text()
    assert text.count('href="outcomes.html"') == 1
    assert 'href="drill.html"' in text
    assert "<p>a run</p>" in text
    assert text.endswith("</main>")


def test_without_an_index_one_is_begun(tmp_path: Path) -> None:
    link(tmp_path, "drift.html")

    assert 'href="drift.html"' in (tmp_path / "index.html").read_text()


def test_only_pages_that_exist_are_listed_and_unknown_ones_refused(tmp_path: Path) -> None:
    (tmp_path / "drill.html").write_text("x")

    assert list(pages(tmp_path).values()) == ["drill.html"]
    with pytest.raises(KeyError):
        link(tmp_path, "other.html")
