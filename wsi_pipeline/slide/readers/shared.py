"""A reader that threads share, whatever errors it meets."""

import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from wsi_pipeline.geometry import Box
from wsi_pipeline.slide.readers.protocol import Reader
from wsi_pipeline.slide.resample import Rgb


class SharedReader:
    """A reader that threads share, opened anew after an error that it does not survive.

    A spent reader closes as soon as the last thread that reads from it has left it.
    """

    def __init__(self, open_it: Callable[[], Reader], opened: Reader) -> None:
        self._open = open_it
        self._lock = threading.Lock()
        self._lease: _Lease | None = _Lease(opened)
        self._closed = False

    def read_level(self, level: int, box: Box, shrink: int = 1) -> Rgb:
        """Read whole pixels of one level; raises whatever the library raises.

        The error may be another thread's, which has spent the reader: see `read_alone`.
        """
        lease = self._taken()
        try:
            return lease.reader.read_level(level, box, shrink)
        except Exception as error:
            if lease.reader.is_spent(error):
                self._retire(lease)
            raise
        finally:
            self._give_back(lease)

    def read_alone(self, level: int, box: Box, shrink: int = 1) -> Rgb:
        """Read with a reader of this read's own: an error is its own, too."""
        with closing(self._open()) as reader:
            return reader.read_level(level, box, shrink)

    def close(self) -> None:
        """Close the file, once nobody reads from it any more; reads fail from then on."""
        with self._lock:
            lease, self._lease = self._lease, None
            self._closed = True
            idle = lease is not None and not lease.users
        if lease is not None and idle:
            lease.reader.close()

    def _taken(self) -> "_Lease":
        with self._lock:
            if self._closed:
                raise ValueError("the slide is closed")
            if self._lease is None:
                self._lease = _Lease(self._open())
            self._lease.users += 1
            return self._lease

    def _retire(self, lease: "_Lease") -> None:
        with self._lock:
            if self._lease is lease:
                self._lease = None

    def _give_back(self, lease: "_Lease") -> None:
        with self._lock:
            lease.users -= 1
            idle = lease is not self._lease and not lease.users
        if idle:
            lease.reader.close()


@dataclass(slots=True)
class _Lease:
    reader: Reader
    users: int = 0
