import pytest

from wsi_pipeline.pages import data_uri, html_template


def test_texts_are_neither_markup_nor_do_they_turn_the_writing():
    page = html_template("wsi_pipeline.case", "worksheet.html", {"percent": str})
    assert page.environment.autoescape
    small = page.environment.from_string("{{ text }}{{ number }}")
    shown = small.render(text="<b>a\u202eb", number=3)
    assert shown.startswith("&lt;b&gt;a")
    assert shown.endswith("b3")
    assert "\u202e" not in shown
    with pytest.raises(Exception, match="undefined"):
        small.render(text="a")


def test_a_part_of_a_page():
    assert data_uri("text/plain", b"") == "data:text/plain;base64,"
