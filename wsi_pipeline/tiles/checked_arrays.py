"""The arrays of a store, of which nothing that is damaged is believed.

Every chunk carries a checksum, and the store's attributes a digest of each array's metadata. A
chunk that should be there and is missing is damage, although zarr would read fill values: black
tiles, and scores for them.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from wsi_pipeline.digests import is_sha256
from wsi_pipeline.errors import DamagedStoreError
from wsi_pipeline.tiles.store_layout import metadata_digests, require_sound_root, sealed
from wsi_pipeline.tiles.store_place import (
    ROOT_METADATA,
    StorePath,
    answering,
    files,
    flush,
    zarr_store,
)

_NO_FILE = (FileNotFoundError, IsADirectoryError, NotADirectoryError)


class CheckedArrays:
    """The arrays and attributes of one store, in a folder or an object store.

    A part of an array is named by a slice of its rows, and a whole array by None.

    Attributes:
        path: of the store.
        group: zarr's, to make arrays in; `register` them afterwards.

    """

    def __init__(self, path: StorePath) -> None:
        """Open an existing store.

        Raises:
            DamagedStoreError: if there is none at `path`, it is damaged or of another version.
            StoreError: if its object store does not answer.

        """
        self.path = path
        with answering(path):
            try:
                require_sound_root((path / ROOT_METADATA).read_bytes())
            except (*_NO_FILE, ValueError, RecursionError) as error:
                raise DamagedStoreError(
                    f"{path}: this is not a tile store of this program, or it is damaged "
                    f"({error}). Score the slide again; move the folder away if it is not needed."
                ) from error
            self.group = zarr.open_group(
                zarr_store(path), mode="r+", zarr_format=3, use_consolidated=False
            )
        self._arrays: dict[str, Any] = {}

    def attribute(self, name: str) -> Any:  # noqa: ANN401 - JSON
        """Return an attribute of the root."""
        return self.group.attrs[name]

    def digest(self, name: str) -> str:
        """Return an attribute that is a digest; parts of it become names of folders.

        Raises:
            DamagedStoreError: if it is none.

        """
        digest = self.attribute(name)
        if not is_sha256(digest):
            raise self.broken(f"{name} is no digest")
        return str(digest)

    def array(self, name: str) -> Any:  # noqa: ANN401 - zarr types items as array or group
        """Return one of zarr's arrays.

        Raises:
            DamagedStoreError: if its metadata are gone, or not what they were.

        """
        # Opening an array parses its metadata: as long as writing several tiles.
        if name not in self._arrays:
            with answering(self.path):
                metadata = self.path / name / ROOT_METADATA
                try:
                    digest = hashlib.sha256(metadata.read_bytes()).hexdigest()
                except OSError as error:
                    raise self.broken(f"the array {name} cannot be opened: {error}") from error
                if self.attribute("arrays").get(name) != digest:
                    raise self.broken(f"the metadata of the array {name} were changed")
                # What was created with this option forgets it: fill values would be no files.
                array: Any = self.group[name]
                self._arrays[name] = array.with_config({"write_empty_chunks": True})
        return self._arrays[name]

    def opens(self, name: str) -> bool:
        """Tell whether an array's metadata are what they were."""
        try:
            self.array(name)
        except DamagedStoreError:
            return False
        return True

    def write(self, name: str, rows: slice, values: NDArray[Any]) -> None:
        """Write rows of an array: whole chunks of them.

        Raises:
            StoreError: if the object store does not answer.

        """
        with answering(self.path):
            self.array(name)[rows] = values

    def read(self, name: str, rows: slice | None = None) -> Any:  # noqa: ANN401 - zarr's
        """Read an array, or rows of it, that have been committed.

        Raises:
            DamagedStoreError: if a part is missing or fails its checksum.

        """
        array = self.array(name)
        with self._reading(name, rows):
            if rows is None:
                there = array.nchunks_initialized == array.nchunks
            else:
                there = all((self.path / chunk).is_file() for chunk in self._chunks(name, rows))
            if not there:
                raise self.broken(f"of {_of(name, rows)} something is gone")
            return array[:] if rows is None else array[rows]

    def read_or_fill(self, name: str, rows: slice) -> Any:  # noqa: ANN401 - zarr's
        """Read rows of an array; what was never written has its fill value.

        Raises:
            DamagedStoreError: if what is there fails its checksum.

        """
        with self._reading(name):
            return self.array(name)[rows]

    def present(self, name: str, shards: Sequence[slice]) -> NDArray[np.bool_]:
        """Return for which shards an array has all of its chunks, bool [shards]."""
        with answering(self.path):
            there = {f"{name}/{file}" for file in files(self.path / name)}
        return np.array([there.issuperset(self._chunks(name, shard)) for shard in shards])

    def sound(self, name: str, shards: Sequence[slice]) -> NDArray[np.bool_]:
        """Return for which shards what is there of an array passes its checksums, bool [shards]."""
        sound = np.ones(len(shards), np.bool_)
        try:
            self.read_or_fill(name, slice(None))
        except DamagedStoreError:
            for number, shard in enumerate(shards):
                try:
                    self.read_or_fill(name, shard)
                except DamagedStoreError:
                    sound[number] = False
        return sound

    def flush(self, names: Sequence[str], rows: slice) -> None:
        """Have the disk keep rows of arrays."""
        flush(self.path, [chunk for name in names for chunk in self._chunks(name, rows)])

    def register(self, names: tuple[str, ...], **changes: object) -> None:
        """Take arrays that were just made for good, and change attributes with that."""
        digests = self.attribute("arrays") | metadata_digests(self.path, names)
        self.forget(names)
        flush(self.path, (f"{name}/{file}" for name in names for file in files(self.path / name)))
        self._change(arrays=digests, **changes)

    def unregister(self, names: tuple[str, ...], **changes: object) -> None:
        """Take arrays for none, and change attributes with that."""
        self.forget(names)
        digests = self.attribute("arrays")
        self._change(arrays={key: digests[key] for key in digests if key not in names}, **changes)

    def forget(self, names: Sequence[str]) -> None:
        """Open arrays anew when they are needed next, since they are about to change."""
        for name in names:
            self._arrays.pop(name, None)

    def broken(self, how: str) -> DamagedStoreError:
        """Return the error to raise for damage."""
        return DamagedStoreError(
            f"{self.path}: the store is damaged ({how}). Move it away and score the slide again."
        )

    @contextmanager
    def _reading(self, name: str, rows: slice | None = None) -> Iterator[None]:
        """Say what is damaged if reading it fails."""
        try:
            with answering(self.path):
                try:
                    yield
                # Checksums fail as ValueError and codecs as RuntimeError; a disk may fail too.
                except (ValueError, RuntimeError) as error:
                    raise self.broken(f"{_of(name, rows)} cannot be read: {error}") from error
        except OSError as error:
            raise self.broken(f"{_of(name, rows)} cannot be read: {error}") from error

    def _chunks(self, name: str, rows: slice) -> list[str]:
        """Name the files that hold rows of an array, relative to the store."""
        array = self.array(name)
        per_chunk = array.chunks[0]
        return [
            f"{name}/{array.metadata.encode_chunk_key((row, *(0 for _ in array.shape[1:])))}"
            for row in range(rows.start // per_chunk, -(-rows.stop // per_chunk))
        ]

    def _change(self, **changes: object) -> None:
        with answering(self.path):
            self.group.update_attributes(sealed(self.group.attrs.asdict() | changes))
        flush(self.path, [ROOT_METADATA])


def _of(name: str, rows: slice | None) -> str:
    return name if rows is None else f"{name} of tiles {rows.start} to {rows.stop - 1}"
