"""Where stores lie: in a folder, or under a prefix of an object store; moved, removed, flushed.

In a folder, files are renamed into place, and flushed where they have to outlive a power cut. In an
object store a PUT is atomic like a rename here, but nothing can be renamed: a store is moved by a
copy, its root metadata (``zarr.json``) last, and removed, its root metadata first. Objects without
it are no store. Credentials come from the environment or fsspec's configuration, never from URLs.
"""

import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, field_validator
from upath import UPath
from zarr.storage import FsspecStore

from wsi_pipeline.errors import ConfigError, StoreError
from wsi_pipeline.files import is_url, secret_in

STORE_NAME = "tiles.zarr"

ROOT_METADATA = "zarr.json"
"""Of a group or an array; in an object store its presence says that all else is there."""

FLUSHES = 16
"""Files and folders that are flushed side by side."""

StorePath = Path | UPath
"""A folder, or a prefix in an object store."""


class StoreConfig(BaseModel):
    """Where tiles are kept while a slide is being scored, and scores for ever."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    root: str | None = None
    """A folder or fsspec URL that gets one folder per slide; None is the output folder. Give each
    output folder a root of its own: its lock guards the stores too."""

    pixels: bool = True
    """Whether pixels are stored until they are scored, so that a run that is killed need not read
    them again. With `keep_tiles` they are stored in any case."""

    @field_validator("root")
    @classmethod
    def _without_credentials(cls, root: str | None) -> str | None:
        if root is not None:
            try:
                store_path(root)
            except ConfigError as error:
                raise ValueError(str(error)) from error
        return root

    def path(self, folder: Path) -> StorePath:
        """Return where the store of a slide is, given its folder of outputs.

        Raises:
            ConfigError: if the root cannot be used.

        """
        return (
            folder / STORE_NAME
            if self.root is None
            else store_path(self.root) / folder.name / STORE_NAME
        )


def store_path(location: str | Path) -> StorePath:
    """Return a path for a folder's name or an fsspec URL.

    Raises:
        ConfigError: if the URL holds credentials, or its file system is not installed.

    """
    address = str(location)
    if not is_url(address):
        return Path(location)
    parts = urlsplit(address)
    if kind := secret_in(address):
        raise ConfigError(
            f"The URL of a store holds a {kind}, which would end up in logs. Leave it out, and "
            f"give credentials in the environment or in fsspec's configuration."
        )
    if parts.scheme in ("file", "local"):
        return Path(parts.path)
    try:
        # What other processes write must be seen.
        path = UPath(address, use_listings_cache=False)
        _ = path.fs
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"{address}: no file system for {parts.scheme}:// ({error}). For s3:// install "
            f"`wsi-pipeline[s3]`, or name a folder."
        ) from error
    return path


def zarr_store(path: StorePath) -> Path | FsspecStore:
    """Return what zarr takes for a path."""
    if isinstance(path, Path):
        return path
    return FsspecStore.from_url(str(path), dict(path.storage_options))


@contextmanager
def answering(path: StorePath) -> Iterator[None]:
    """Turn whatever an object store fails with into a StoreError; leave folders alone."""
    try:
        yield
    except StoreError:
        raise
    # Each file system has errors of its own, and some are of the library below it.
    except Exception as error:
        if isinstance(path, Path):
            raise
        raise StoreError(
            f"{path}: the object store does not answer as it should ({error}). Check the URL, the "
            f"network and the credentials in the environment; what is stored so far is kept."
        ) from error


def exists(path: StorePath) -> bool:
    """Whether a store or an array is there, and complete."""
    return (path / ROOT_METADATA).exists()


def files(path: StorePath) -> set[str]:
    """Return the names of all files below a path, relative to it."""
    if isinstance(path, Path):
        return {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}
    return {name.removeprefix(path.path).lstrip("/") for name in path.fs.find(path.path)}


def unused(path: StorePath) -> StorePath:
    """Return a path at which there is nothing yet, numbered if need be."""
    free, number = path, 1
    # Objects without root metadata are the copy of a store that was killed: it is made again.
    while free.exists() if isinstance(free, Path) else exists(free):
        number += 1
        free = path.with_name(f"{path.stem}-{number}.zarr")
    return free


def remove(path: StorePath) -> None:
    """Remove all below a path; a store in an object store is none from the first step on."""
    if isinstance(path, Path):
        if path.exists():
            shutil.rmtree(path)
        return
    root = (path / ROOT_METADATA).path
    # One by one: a deletion of many takes names for patterns.
    for file in sorted(path.fs.find(path.path), key=lambda file: file != root):
        path.fs.rm_file(file)


def move(source: StorePath, target: StorePath) -> None:
    """Rename a store or an array, which appears under its new name only when it is complete."""
    if not (isinstance(source, UPath) and isinstance(target, UPath)):
        Path(str(source)).rename(str(target))
        for folder in {Path(str(source)).parent, Path(str(target)).parent}:
            _flush(folder)
        return
    remove(target)  # what is left of a copy that was killed
    names = source.fs.find(source.path)
    root = (source / ROOT_METADATA).path
    for part in ([name for name in names if name != root], [root]):
        source.fs.copy(part, [name.replace(source.path, target.path, 1) for name in part])
    remove(source)


def flush(root: StorePath, names: Iterable[str]) -> None:
    """Have the disk keep files of a store, and the folders that name them, whatever happens now.

    An object store does so by itself.

    Args:
        root: of the store.
        names: of files, relative to it.

    """
    if not isinstance(root, Path):
        return
    chosen = [root / name for name in names]
    folders = {folder for file in chosen for folder in file.parents if folder.is_relative_to(root)}
    # Side by side, since the disk's journal takes them together: five times as fast.
    with ThreadPoolExecutor(FLUSHES) as pool:
        for _ in pool.map(_flush, [*chosen, *folders]):
            pass


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Not all network drives can flush a folder, and what is on them is theirs to keep.
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
