"""An object store that speaks S3, on loopback, and a count of what is asked of it."""

import logging
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import fsspec
import httpx
import pytest
import s3fs
from moto.server import ThreadedMotoServer

REQUEST = re.compile(r'"(?P<method>[A-Z]+) (?P<path>\S+)')


class _Requests(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        request = REQUEST.search(record.getMessage())
        if request:
            self.made.append((request["method"], request["path"]))


@dataclass
class ObjectStore:
    """A bucket named `scans`, which fsspec finds by its URL alone."""

    environment: dict[str, str]
    url: str = "s3://scans"
    _requests: _Requests = field(default_factory=_Requests)

    @property
    def files(self) -> fsspec.AbstractFileSystem:
        return fsspec.filesystem("s3", use_listings_cache=False)

    @contextmanager
    def counted(self) -> Iterator[Counter[str]]:
        """Count requests by method while the context lasts."""
        counts: Counter[str] = Counter()
        before = len(self._requests.made)
        yield counts
        counts.update(method for method, _ in self._requests.made[before:])

    def objects(self, prefix: str) -> dict[str, bytes]:
        """All that lies below a prefix of the bucket."""
        root = f"scans/{prefix}"
        return {
            path.removeprefix(f"{root}/"): self.files.cat_file(path)
            for path in self.files.find(root)
        }


@contextmanager
def serve_objects() -> Iterator[ObjectStore]:
    """Serve an empty bucket; the environment says where it is, and nothing else does."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    store = ObjectStore(
        {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "the-secret-key",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
    )
    log = logging.getLogger("werkzeug")
    before = log.level, log.propagate
    with pytest.MonkeyPatch.context() as patch:
        for name, value in store.environment.items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        log.addHandler(store._requests)
        log.setLevel(logging.INFO)
        log.propagate = False
        try:
            _forget_all(port)
            store.files.mkdir("scans")
            yield store
        finally:
            _forget_all(port)
            log.removeHandler(store._requests)
            log.level, log.propagate = before
            s3fs.S3FileSystem.clear_instance_cache()
            server.stop()


def _forget_all(port: int) -> None:
    """Delete all objects: they belong to this process, and outlive the server that took them."""
    reset = f"http://127.0.0.1:{port}/moto-api/reset"
    httpx.post(reset, trust_env=False).raise_for_status()
