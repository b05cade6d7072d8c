"""DICOM files to an archive, by STOW-RS (PS3.18 10.5): each once, however often it is tried."""

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from pydicom import Dataset, dcmread

from wsi_pipeline.errors import ConfigError, OutputError
from wsi_pipeline.files import require_no_secret

log = logging.getLogger(__name__)

ATTEMPTS = 5
FIRST_WAIT_S = 1.0
"""Doubled after each attempt: half a minute in all, as an archive takes to start again."""

T = TypeVar("T")


def send(files: Sequence[Path], url: str) -> int:
    """Send those files to an archive that it does not have.

    UIDs follow from what the files hold, so asking for them is enough: one that was sent by a run
    that was killed, or whose answer was lost, is not sent again.

    Args:
        files: of DICOM objects.
        url: the archive's DICOMweb service. Its password is taken from ``~/.netrc``.

    Returns:
        how many were sent now.

    Raises:
        ConfigError: if the address is none, or holds a secret, or the extra is not installed.
        OutputError: if the archive does not answer, or refuses a file.

    """
    try:
        import requests
        from dicomweb_client.api import DICOMwebClient
    except ImportError as error:
        raise ConfigError(
            f"Sending needs a package that is not installed ({error.name}). Run: "
            'pip install "wsi-pipeline[dicom]"'
        ) from error
    require_no_secret(url)
    if not url.startswith(("https://", "http://")):
        raise ConfigError(f"{url}: no DICOMweb address. It begins with https:// or http://.")
    client = DICOMwebClient(url)
    client.set_http_retry_params(retry=False)  # which would not look first what is there by now

    def tried(act: Callable[[], T]) -> T:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return act()
            except requests.RequestException as error:
                if attempt == ATTEMPTS or not _may_pass(error):
                    raise OutputError(
                        f"{url}: the archive did not take the result ({error}). Look whether the "
                        "address and its entry in ~/.netrc are right, and run the same command "
                        "again: nothing is sent twice."
                    ) from error
                wait_s = FIRST_WAIT_S * 2 ** (attempt - 1)
                log.warning("%s: %s. Tried again in %.0f s", url, error, wait_s)
                time.sleep(wait_s)
        raise AssertionError

    def there(dataset: Dataset) -> bool:
        return bool(
            client.search_for_instances(
                dataset.StudyInstanceUID,
                dataset.SeriesInstanceUID,
                search_filters={"SOPInstanceUID": dataset.SOPInstanceUID},
            )
        )

    def store(dataset: Dataset) -> bool:
        """Send a file unless the archive has it, as it may after an answer that was lost."""
        if there(dataset):
            return False
        answer = client.store_instances([dataset])
        if answer.get("FailedSOPSequence"):
            reason = answer.FailedSOPSequence[0].get("FailureReason", "no reason given")
            raise OutputError(
                f"{url}: the archive refuses the file of {dataset.Modality} (reason {reason})."
            )
        return True

    sent = 0
    for path in files:
        dataset = dcmread(path)
        sent += tried(partial(store, dataset))
        if not tried(partial(there, dataset)):
            raise OutputError(
                f"{url}: the archive says that it took {path.name}, and does not have it. Look "
                "into its log, and run the same command again."
            )
    return sent


def _may_pass(error: Exception) -> bool:
    """Tell whether trying again may help: not if the archive says that the request is wrong."""
    answer = getattr(error, "response", None)
    return answer is None or answer.status_code >= 500 or answer.status_code in (408, 425, 429)
