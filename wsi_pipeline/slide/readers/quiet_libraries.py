"""Keeps what C libraries write to the terminal out of it."""

import logging
import os
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)

_STDERR = 2
_LOCK = threading.Lock()
_BY_GLIB = re.compile(
    rb"^(?:\r?\n)?\(process:\d+\): .*-(?:WARNING|CRITICAL|Message) \*\*: .*\n?", re.MULTILINE
)


@contextmanager
def hushed() -> Iterator[None]:
    """Hold back what is written to standard error's descriptor; log GLib's, and pass on the rest.

    Other threads' lines come late by as long as the block takes.
    """
    with _LOCK, tempfile.TemporaryFile() as held:
        try:
            terminal = os.dup(_STDERR)
        except OSError:  # a service without standard error
            yield
            return
        os.dup2(held.fileno(), _STDERR)
        try:
            yield
        finally:
            os.dup2(terminal, _STDERR)
            held.seek(0)
            written = held.read()
            for line in _BY_GLIB.findall(written):
                log.debug("%s", line.decode(errors="replace").strip())
            if rest := _BY_GLIB.sub(b"", written):
                os.write(terminal, rest)
            os.close(terminal)
