"""What people do with bundles on the hub: see which are here, fetch one, give one away."""

import logging
from collections.abc import Iterator
from dataclasses import replace

from wsi_pipeline.errors import BundleError
from wsi_pipeline.model.bundle import BUNDLED_MODEL, ModelBundle, ModelCard
from wsi_pipeline.model.hub import CARD_NAME, FILES, WEIGHTS_NAME, HubAddress, fetched

log = logging.getLogger(__name__)

MODEL_CARD = "README.md"
"""What the hub shows of a repository."""

_SPDX = ("apache-2.0", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "mit")
"""Licences that the hub has a name for; of those that bundles of ours can have."""


def here() -> Iterator[tuple[str, ModelBundle]]:
    """Give the bundles on this machine, by what `--bundle` takes: the package's, and the copies."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    bundled = ModelBundle.load(BUNDLED_MODEL)
    yield f"the default, digest {bundled.digest}", bundled
    try:
        cache = scan_cache_dir()
    except CacheNotFound:
        return
    for repository in sorted(cache.repos, key=lambda found: found.repo_id):
        for revision in sorted(repository.revisions, key=lambda found: found.commit_hash):
            names = {file.file_name for file in revision.files}
            if not names.issuperset({CARD_NAME, WEIGHTS_NAME}):
                continue
            try:
                bundle = ModelBundle.load(revision.snapshot_path)
            except BundleError as error:
                log.warning("%s", error)
                continue
            address = HubAddress(repository.repo_id, revision.commit_hash, bundle.digest)
            yield str(address), bundle


def pull(address: HubAddress) -> tuple[HubAddress, ModelBundle]:
    """Fetch a bundle from the hub; return its address with revision and digest pinned.

    Raises:
        BundleError: if it cannot be had, or is not the one whose digest is given.

    """
    folder = fetched(address, newest=True)
    # A snapshot's folder is called by its commit.
    bundle = ModelBundle.load(str(replace(address, revision=folder.name)))
    return HubAddress(address.repository, folder.name, bundle.digest), bundle


def push(bundle: ModelBundle, repository: str, *, private: bool = True) -> HubAddress:
    """Give a bundle to a repository on the hub, which is made if there is none.

    Args:
        bundle: with its files in a folder.
        repository: owner and name.
        private: whether a new repository is.

    Returns:
        its address there, pinned.

    Raises:
        BundleError: if the hub does not take it.

    """
    from huggingface_hub import CommitOperationAdd, HfApi, errors

    if bundle.folder is None:
        raise BundleError(f"{bundle.source}: a bundle has to be saved before it can be given away.")
    operations = [
        CommitOperationAdd(name, str(bundle.folder / name))
        for name in FILES
        if (bundle.folder / name).is_file()
    ]
    operations.append(CommitOperationAdd(MODEL_CARD, model_card(bundle.card).encode()))
    card = bundle.card
    try:
        api = HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        done = api.create_commit(
            repository, operations, commit_message=f"{card.name} {card.version}"
        )
    except (OSError, ValueError, errors.HTTPError) as error:  # type: ignore[attr-defined]
        cause = str(error).strip().splitlines()[0]
        raise BundleError(
            f"hf://{repository}: the hub does not take the bundle: {cause} Log in with `hf auth "
            "login` or set HF_TOKEN, to an account that may write there."
        ) from error
    return HubAddress(repository, done.oid, bundle.digest)


def model_card(card: ModelCard) -> str:
    """Return a bundle's card as the hub shows cards: Markdown under a header in YAML."""
    from huggingface_hub import ModelCardData

    first = card.licence.split(";")[0].strip().lower()
    known = first in _SPDX
    header = ModelCardData(
        license=first if known else "other",
        license_name=None if known else card.licence,
        library_name="wsi-pipeline",
        pipeline_tag="image-segmentation",
        tags=["pathology", "whole-slide-image", "histology", "cellularity", "safetensors"],
        model_name=f"{card.name} {card.version}",
    )
    warning = (
        "**A demonstration model: its figures are for nobody's diagnosis, and for no study.**\n\n"
        if card.demonstration
        else ""
    )
    figures = "\n".join(f"| {name} | {value:g} |" for name, value in sorted(card.metrics.items()))
    table = f"## Figures\n\n| figure | value |\n| --- | ---: |\n{figures}\n" if figures else ""
    return (
        f"---\n{header.to_yaml()}\n---\n\n# {card.name} {card.version}\n\n{warning}"
        f"Cellularity of breast tissue in patches of {card.tile_px} px at {card.mpp:g} µm/px, for "
        f"wsi-pipeline.\n\n"
        f"## Trained on\n\n{card.trained_on}\n\n## Licence\n\n{card.licence}\n\n"
        f"## Intended use\n\n{card.intended_use}\n\n## What it gets wrong\n\n{card.limitations}\n\n"
        f"{table}"
    )
