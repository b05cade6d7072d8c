"""Bundles on the Hugging Face hub: addresses, and copies of them on this machine.

An address is ``hf://owner/name[@revision][#digest]``. The digest is the bundle's own, and pins it
whatever happens to the repository. A revision that is here is not asked for again, so that nights
need no network; a copy appears in the hub's cache only when it is whole.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from wsi_pipeline.errors import BundleError
from wsi_pipeline.model.score_error import SCORE_ERROR_NAME

CARD_NAME: Final = "card.json"
WEIGHTS_NAME: Final = "model.safetensors"

FILES: Final = (SCORE_ERROR_NAME, CARD_NAME, WEIGHTS_NAME)
"""What a repository holds of a bundle, in the order of fetching: where the last one is, all are.
The first need not be there."""

_COMMIT = re.compile(r"[0-9a-f]{40}")

# None of the parts can start with a dot, so none leads out of the hub's cache.
_ADDRESS = re.compile(
    r"hf://(?P<repository>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>\w[\w./-]*))?"
    r"(?:#(?P<digest>[0-9a-f]{64}))?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class HubAddress:
    """Where a bundle is on the hub.

    Attributes:
        repository: owner and name.
        revision: a branch, a tag or a commit; None is the newest.
        digest: of the bundle, hex, 64 digits; None takes any.

    """

    repository: str
    revision: str | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an address.

        Raises:
            BundleError: if it is none.

        """
        found = _ADDRESS.fullmatch(text)
        if found is None:
            raise BundleError(
                f"{text} is no hub address of a model bundle; write hf://owner/name, "
                "hf://owner/name@revision or hf://owner/name@revision#digest."
            )
        return cls(found["repository"], found["revision"], found["digest"])

    def __str__(self) -> str:
        revision = "" if self.revision is None else f"@{self.revision}"
        digest = "" if self.digest is None else f"#{self.digest}"
        return f"hf://{self.repository}{revision}{digest}"


def fetched(address: HubAddress, *, newest: bool = False) -> Path:
    """Return the folder of a bundle's copy on this machine.

    Args:
        address: of the bundle.
        newest: whether the hub is asked although a copy is here. A commit never changes, and is
            not asked for.

    Raises:
        BundleError: if there is no copy, and the hub does not give one.

    """
    fixed = address.revision is not None and _COMMIT.fullmatch(address.revision) is not None
    copy = _copy(address)
    if copy is not None and (fixed or not newest):
        return copy
    from huggingface_hub import errors, hf_hub_download

    # HTTPError is the root of the errors of the HTTP library that the hub's client is built on,
    # whichever that is in the version installed.
    try:
        for name in FILES:
            try:
                hf_hub_download(address.repository, name, revision=address.revision)
            except errors.RemoteEntryNotFoundError:
                if name != SCORE_ERROR_NAME:
                    raise
    except (OSError, errors.HFValidationError, errors.HTTPError) as error:  # type: ignore[attr-defined]
        cause = str(error).strip().splitlines()[0]
        raise BundleError(
            f"{address} could not be fetched from the hub: {cause} Check the name and the "
            "network, or download the bundle elsewhere and give its folder."
        ) from error
    copy = _copy(address)
    if copy is None:
        raise BundleError(f"{address} changed while it was fetched. Run the same command again.")
    return copy


def _copy(address: HubAddress) -> Path | None:
    """Return the folder of a copy that is whole; None if there is none."""
    from huggingface_hub import errors, try_to_load_from_cache

    try:
        last = try_to_load_from_cache(address.repository, FILES[-1], revision=address.revision)
    except errors.HFValidationError:
        return None
    if not isinstance(last, str):
        return None
    folder = Path(last).parent
    return folder if (folder / CARD_NAME).is_file() else None
