"""`python -m wsi_pipeline.worker`: a process that keeps the model and scores slide after slide.

Slides come from other people's machines, and the libraries that decode them are written in C. What
brings such a library down, hangs it or fills the memory shall cost one slide and not the night: so
slides are scored by processes like this one, which a supervisor (`wsi_pipeline.supervise`) watches
and replaces. All that is worth keeping is in the slide's store at any time.
"""

import faulthandler
import logging
import os
import queue
import threading
from collections.abc import Iterator
from typing import IO


def main() -> None:
    """Score what the supervisor asks for, until it closes its end."""
    faulthandler.enable()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    answers = _own_answers()
    asked = _asked()
    # Loading the libraries takes seconds, in which the supervisor may die: it listens already.
    from wsi_pipeline.worker_loop import work

    work(asked, answers)


def _own_answers() -> IO[str]:
    """Keep standard output for answers; what libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _asked() -> Iterator[str]:
    """Give the supervisor's lines; when it is gone, end at once: stores survive that."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    # The supervisor writes UTF-8, whatever this process has been told of its terminal.
    asked = os.fdopen(os.dup(0), encoding="utf-8")

    def listen() -> None:
        for line in asked:
            lines.put(line)
        os._exit(0)

    threading.Thread(target=listen, name="listening", daemon=True).start()
    return iter(lines.get, None)


if __name__ == "__main__":
    main()
