"""Pages that browsers show although they are not as they should be: deep ones, empty parts, odd tables, many tags."""

import time
from pathlib import Path

import pytest

from retrieval.sources import converted as formats
from retrieval.sources.converted import convert
from retrieval.sources.page import MOST_DEPTH, page_of
from retrieval.sources.unreadable import Unreadable


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<main id=app></main><article><p>All the text</p></article>", "All the text"),
        ("<main> <img src=x><!-- a --></main><p>All the text", "All the text"),
        ("<main><script>run()</script></main><p>All the text", "All the text"),
        ("<main><nav>menu</nav></main><p>All the text", "All the text"),
        ("<main hidden></main><p>around</p><main>All the text</main>", "All the text"),
        ("<p>around</p><main>All the text</main><main>more</main>", "All the text"),
        ("<main></main><nav>All the text</nav>", "All the text"),
        ("<main><h2>Head</h2> </main><p>All the text", "## Head\n\nAll the text"),
        ("<main><h2>All the text</h2></main><nav>menu</nav>", "## All the text"),
    ],
)
def test_the_main_part_counts_only_if_it_has_text(page: str, text: str) -> None:
    assert page_of(f"<title>T</title>{page}") == ("T", text)


@pytest.mark.parametrize("depth", [MOST_DEPTH - 10, MOST_DEPTH, 330, 1500])
@pytest.mark.parametrize("element", ["<font>{}", "<li><font size=2>{}", "<b>{}", "<div>{}", "<ul><li>{}", "<q>{}"])
def test_elements_that_nest_deep_are_read(element: str, depth: int) -> None:
    title, text = page_of("<title>T</title><p>start " + "".join(element.format(f" w{i}. ") for i in range(depth)))
    assert title == "T"
    assert [word for word in text.replace("*", " ").replace('"', " ").split() if word != "-"] == [
        "start",
        *(f"w{i}." for i in range(depth)),
    ]


def test_what_is_deeper_than_the_deepest_keeps_its_form() -> None:
    page = "<div>" * 500 + "<h2>Head</h2><p>one<script>run()</script><p>two<ul><li>x</ul>" + "</div>" * 500
    assert page_of(f"{page}<p>end").text == "## Head\n\none\n\ntwo\n\n- x\n\nend"


def test_items_outside_a_list_begin_a_line() -> None:
    assert page_of("<font>one<li>two<li>three</font> four").text == "one\n- two\n- three\n four"


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ("<tr><td>a<td>b<tr><td>c<td>d", "|  |  |\n| --- | --- |\n| a | b |\n| c | d |"),
        ("<tbody><tr><td>a<tbody><tr><td>b", "|  |\n| --- |\n| a |\n| b |"),
        ("<thead><tr><th>h<tbody><tr><td>a<tbody><tr><td>b", "| h |\n| --- |\n| a |\n| b |"),
        ("<thead><tr><td>h</thead><tr><td>a", "| h |\n| --- |\n| a |"),
        ("<thead><tr><th>g<tr><th>h</thead><tr><td>a", "| g |\n| --- |\n| h |\n| a |"),
        ("<tr><th colspan=2>h<tr><td>a<td>b", "| h | |\n| --- | --- |\n| a | b |"),
        ("<tr><td colspan=\u00b2>a<tr><td>b", "|  |\n| --- |\n| a |\n| b |"),
        ("<tr><tr><td>a", "|\n|  |\n| --- |\n| a |"),
        ("<tr><td colspan=1000>a<tr><td>b", "|  |\n| --- |\n| a |\n| b |"),
    ],
)
def test_a_table_has_one_line_below_its_head(rows: str, text: str) -> None:
    assert page_of(f"<table>{rows}</table>").text == text


@pytest.mark.parametrize("name", ["template", "noscript", "svg", "button", "select"])
def test_what_is_not_shown_costs_no_text_where_its_end_tag_is_missing(name: str) -> None:
    assert page_of(f"<h1>T</h1><{name}><p>after").text == "# T\n\nafter"
    assert page_of(f"<h1>T</h1><{name}>gone<b>gone</{name.upper()} ><p>after").text == "# T\n\nafter"
    assert page_of(f"<h1>T</h1><{name} a=b>gone<b>gone</{name}><p>after<{name}>, too").text == "# T\n\nafter, too"
    assert page_of(f"<head><{name}>gone</{name}><title>T</title></head><nav>all</nav>") == ("T", "all")


def test_a_shadow_root_is_shown() -> None:
    assert page_of("<p>a<div><template shadowrootmode=OPEN><p>b</template></div>").text == "a\n\nb"
    assert page_of("<p>a<div><template shadowrootmode=other><p>b</template></div>").text == "a"


def test_a_number_that_no_list_begins_with_is_not_believed() -> None:
    assert page_of(f"<ol start={'9' * 5000}><li>a</ol><ol start=1984><li>b").text == "1. a\n\n1984. b"


def test_tags_in_a_title_are_its_text() -> None:
    title = "How to close <nav> with </nav>"
    assert page_of(f"<title>{title}</title><p>text").title == title


@pytest.mark.timing
@pytest.mark.parametrize(
    "part", ["<tbody><tr><td>a</tbody>", "<thead><tr><td>a</thead>", "<div>a", "<main>", "<dt>a<dd>b"]
)
def test_odd_pages_are_read_in_linear_time(part: str) -> None:
    began = time.monotonic()
    page_of("<table>" * part.startswith("<t") + part * 5000)
    assert time.monotonic() - began < 5


def test_pages_of_very_many_tags_are_refused_by_their_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "MOST_TAGS", 1000)
    file = tmp_path / "a.html"
    file.write_text("<p>a</p>" * 500)
    assert convert(file, ".html", None).text.startswith("a\n\na")
    for tag in ("<p>", "</nav>", "<!-- -->"):
        file.write_text(tag * 1001)
        with pytest.raises(Unreadable, match=r"holds more than 1,000 tags; split it$"):
            convert(file, ".html", None)
