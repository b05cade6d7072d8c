"""A real archive: Debian's Orthanc with its DICOMweb plugin, on loopback."""

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")

needs_orthanc = pytest.mark.skipif(
    shutil.which("Orthanc", path="/usr/sbin:/usr/bin") is None or not PLUGIN.exists(),
    reason="Debian's packages orthanc and orthanc-dicomweb are not installed",
)


class Archive:
    """One that runs; `web` is its DICOMweb service."""

    def __init__(self, port: int) -> None:
        self.root = f"http://127.0.0.1:{port}"
        self.web = f"{self.root}/dicom-web"

    def get(self, path: str) -> Any:
        """Return what it answers, as JSON."""
        with urllib.request.urlopen(self.root + path) as answer:
            return json.load(answer)

    def file(self, instance: str) -> bytes:
        """Return an object as it gives it back."""
        with urllib.request.urlopen(f"{self.root}/instances/{instance}/file") as answer:
            return bytes(answer.read())


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def archive(folder: Path, port: int | None = None) -> Iterator[Archive]:
    """Run an archive that keeps what it gets in a folder."""
    port = port or free_port()
    folder.mkdir(exist_ok=True)
    config = {
        "StorageDirectory": str(folder),
        "IndexDirectory": str(folder),
        "HttpPort": port,
        "DicomServerEnabled": False,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    file = folder / "orthanc.json"
    file.write_text(json.dumps(config))
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [shutil.which("Orthanc", path="/usr/sbin:/usr/bin") or "Orthanc", str(file)],
            stdout=log,
            stderr=log,
        )
    found = Archive(port)
    try:
        for _ in range(300):
            try:
                found.get("/system")
                break
            except (urllib.error.URLError, ConnectionError):
                assert process.poll() is None, (folder / "log").read_text()
                time.sleep(0.1)
        yield found
    finally:
        process.kill()
        process.wait()
