"""Text that came from elsewhere, made fit to be shown.

A slide's file name, a model's card, a configuration, what a library says of a damaged file: all of
it may have been written by somebody else, to steer a terminal, to fake a line of a log, to be run
by a spreadsheet or to be a link on a page. Files keep such text as it is; wherever a person or a
program reads it, it goes through here.
"""

import codecs
import io
import logging
import re
import sys

_UNFIT = "\N{REPLACEMENT CHARACTER}"

_NEAREST = {"µ": "u", "μ": "u", "×": "x", "²": "2", "–": "-", "…": "...", "’": "'", "\xa0": " "}
"""What our own words turn into where a terminal has but ASCII."""

_MARKDOWN = re.compile(r"([\\`*_{}\[\]#+.!|~:@$^=-])")
"""What starts markup in CommonMark and GitHub's dialect: its tables, links without brackets, and
formulas too."""

_FORMULA = re.compile(r"""(^|;)(?=[\s"']*[=+\-@＝＋－＠])""")
"""Where a cell would begin with what a spreadsheet takes for a formula. Where commas are decimal
signs, a spreadsheet splits lines at semicolons, those within quotes included."""


def shown(text: object) -> str:
    r"""Return a text on one line, without characters that steer terminals or turn the writing.

    >>> shown("a slide\nof two lines")
    'a slide of two lines'
    """
    return "".join(map(_fit, str(text)))


def shown_lines(text: object) -> str:
    """Return a text of several lines, such as a traceback, without those characters."""
    return "\n".join(map(shown, str(text).split("\n")))


def markdown(text: object) -> str:
    """Return a text on one line that Markdown and HTML show as it is."""
    plain = shown(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKDOWN.sub(r"\\\1", plain)


def spreadsheet_cell(text: object) -> str:
    """Return a text on one line for a CSV, of which no spreadsheet makes a formula.

    >>> spreadsheet_cell("=1+1.svs")
    "'=1+1.svs"
    """
    return _FORMULA.sub(r"\1'", shown(text))


def write_on_any_terminal() -> None:
    """Have signs that a terminal or a pipe lacks be replaced, since they must not end a run."""
    codecs.register_error("nearest", _nearest)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="nearest")


class ShownFormatter(logging.Formatter):
    """Formats records such that no message can steer a terminal, or pose as further records."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the record on one line."""
        return shown(super().formatMessage(record))

    def formatException(self, ei: object) -> str:  # noqa: N802 - logging's name
        """Return the traceback."""
        return shown_lines(super().formatException(ei))  # type: ignore[arg-type]


def _nearest(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(_NEAREST.get(letter, "?") for letter in missing), error.end


def _fit(letter: str) -> str:
    if letter.isprintable() or letter in "\xa0\u202f":
        return letter
    return " " if letter.isspace() else _UNFIT
