"""Text from elsewhere, wherever it is shown."""

import csv
import io
import logging
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.shown import ShownFormatter, markdown, shown, shown_lines, spreadsheet_cell

EVIL = "[red]=cmd|' /C calc'!A0\u202egnp.svs\x1b]0;owned\x07\n2026-01-01 INFO all is well"


@given(st.text())
def test_what_is_shown_is_one_line_and_steers_nothing(text):
    for said in (shown(text), markdown(text), spreadsheet_cell(text)):
        assert not {unicodedata.category(letter) for letter in said} & {
            "Cc",
            "Cf",
            "Cs",
            "Zl",
            "Zp",
        }
        assert len(said.splitlines()) <= 1
        said.encode()  # a name that is no UTF-8 reaches us as surrogates, which nothing can write
    assert len(shown(text)) == len(text)


def test_ordinary_text_is_left_as_it_is():
    for text in ("Größe 12 µm × 3.svs", "病理.svs", "a  b", "x_y-1 (2).svs", "{slide}", "[1,0]"):
        assert shown(text) == text
        assert spreadsheet_cell(text) == text
    assert shown_lines("Traceback:\n  File \x1b[8m'x'\n") == "Traceback:\n  File �[8m'x'\n"


@pytest.mark.parametrize(
    "text", [EVIL, "=1", "+1", " \t-1", "＝1", '"=1"', "a;=1", 'a;""@b', ";;=1"]
)
def test_no_spreadsheet_finds_a_formula_whatever_separates_its_cells(text):
    line = io.StringIO()
    csv.writer(line).writerow(["slide", spreadsheet_cell(text), spreadsheet_cell("after")])
    for separator in ",;":
        for row in csv.reader([line.getvalue()], delimiter=separator):
            assert not [cell for cell in row if cell.lstrip().startswith(tuple("=+-@＝＋－＠"))]


def test_markdown_and_html_show_a_text_as_it_is():
    markup = pytest.importorskip("markdown_it")  # it comes with rich
    for text in (
        EVIL, "<script>alert(1)</script>", "![x](http://evil/)", "www.evil.com", "a|b", "`x`",
        "$x$", "&lt;b&gt;", "me@evil.com", "- x", "1. x", "# x", "***x***", "~~x~~", "\\", "---", "http://a.b",
    ):  # fmt: skip
        html = markup.MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(
            f"| a | b |\n| - | - |\n| x{markdown(text)} | y |\n"
        )  # fmt: skip
        assert set(re.findall(r"<(\w+)", html)) == {
            "table", "thead", "tbody", "tr", "th", "td",
        }, html  # fmt: skip
        alone = markup.MarkdownIt("commonmark").render(markdown(text))
        assert alone.startswith("<p>")
        assert alone.count("<") == 2


def test_a_record_of_a_log_is_one_line(caplog):
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(ShownFormatter("%(levelname)s %(message)s"))
    error = OSError(EVIL)
    what = (OSError, error, None)
    handler.handle(logging.LogRecord("x", logging.ERROR, __file__, 1, "%s", (error,), what))
    first, *trace = stream.getvalue().splitlines()
    assert first == f"ERROR {shown(EVIL)}"
    assert "\x1b" not in "".join(trace)
    assert any(line.startswith("OSError: [red]") for line in trace)
