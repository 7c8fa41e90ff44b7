"""Self-contained pages."""

import math

import pytest

from millrace.judge.gates import Rule, Verdict
from millrace.report.page import Page, data_uri, figure, show


def test_everything_on_a_page_is_escaped():
    page = Page("<b>title</b>", "<i>sub</i>").heading("<h>").text("<script>1</script>").facts({"<k>": "<v>"})
    page.table(["<c>"], [["<td>"]], caption="<cap>")
    page.verdict(Verdict("<g>", (Rule("<r>", 1, "<=", 2, "<d>"),)))

    html = page.html()

    for piece in ("<b>title", "<i>sub", "<h>", "<script>", "<k>", "<v>", "<c>", "<td>\n", "<cap>", "<r>", "<d>", "<g>"):
        assert piece not in html, piece
    assert "&lt;script&gt;" in html


def test_a_page_needs_no_network_and_no_script():
    plot, axes = figure("t", "x", "y")
    axes.plot([1, 2], [3, 4])

    html = Page("t").figures((plot, "caption")).html()

    assert "data:image/png;base64," in html
    assert "<script" not in html
    assert "http" not in html


@pytest.mark.parametrize(("value", "badge"), [(1, "passed"), (3, "blocked"), (None, "blocked")])
def test_the_badge_is_the_verdict(value, badge):
    html = Page("t").verdict(Verdict("g", (Rule("r", value, "<=", 2),))).html()

    assert f">{badge}</span>" in html


def test_one_blocked_verdict_of_two_blocks_the_page():
    page = Page("t").verdict(Verdict("a", (Rule("r", 3, "<=", 2),))).verdict(Verdict("b", (Rule("r", 1, "<=", 2),)))

    assert page.passed is False


def test_failures_stand_first_with_value_and_limit():
    rules = (Rule("fine", 1, "<=", 2), Rule("bad", 0.123456, ">=", 0.5, "because"))

    html = Page("t").verdict(Verdict("g", rules)).html()

    assert html.index("bad") < html.index("fine")
    assert "0.123" in html
    assert "≥ 0.5" in html
    assert "because" in html


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (math.nan, "–"),
        (True, "yes"),
        (1234567, "1,234,567"),
        (0.84, "0.840"),
        (0.00123456, "0.00123"),
        (12345.6, "12,346"),
        (20.0, "20"),
        ("a", "a"),
    ],
)
def test_values_are_shown_as_people_read_them(value, text):
    assert show(value) == text


def test_an_empty_table_and_an_empty_plot_are_fine():
    html = Page("t").table(["a", "b"], []).figures((figure("t", "x", "y")[0], "nothing")).html()

    assert "<th>a</th>" in html


def test_a_plot_is_drawn_the_same_twice():
    def drawn():
        plot, axes = figure("t", "x", "y")
        axes.plot([1, 2], [3, 4])
        return data_uri(plot)

    assert drawn() == drawn()
