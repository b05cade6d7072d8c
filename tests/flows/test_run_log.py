"""What a flow run logs, and where to."""

import io
import logging

import pytest

pytest.importorskip("prefect")

from prefect.logging.handlers import PrefectConsoleHandler

from flows.run_log import run_log


class NobodyReads(io.StringIO):
    """The output of a run whose worker was killed."""

    def __init__(self) -> None:
        super().__init__()
        self.written = 0

    def write(self, _text: str) -> int:
        self.written += 1
        raise BrokenPipeError


def test_a_run_goes_on_when_nobody_reads_its_output_any_more() -> None:
    output = NobodyReads()
    handler = PrefectConsoleHandler(stream=output)
    prefect = logging.getLogger("prefect")
    prefect.addHandler(handler)
    try:
        with run_log():
            logging.getLogger("prefect.engine").warning("The worker has just died")
        logging.getLogger("prefect.engine").warning("Finished")
    finally:
        prefect.removeHandler(handler)
    assert output.written == 1  # it then says no more there
