"""Fixtures for flows: real Prefect servers, and what their runs need."""

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
import yaml

from tests.helpers.prefect_site import Site
from wsi_pipeline.night.config import NightConfig


@pytest.fixture
def make_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Site]]:
    """Make a site of the test's own, to be killed; nothing runs on it yet."""
    with ExitStack() as stack:

        def make(**settings: str) -> Site:
            return stack.enter_context(Site(tmp_path_factory.mktemp("prefect"), **settings))

        yield make


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site with a running server, for all tests that do not deploy or kill."""
    with Site(tmp_path_factory.mktemp("prefect")) as site:
        site.start_server()
        yield site


@pytest.fixture(scope="module")
def postgres() -> Iterator[dict[str, str]]:
    """An empty database of Debian's PostgreSQL, as the settings of a server that uses it."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        reason = "PostgreSQL is needed: on Debian, `apt-get install postgresql`"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    # It refuses to run as root, and its user cannot enter the folders that pytest makes for us.
    user = "postgres" if os.getuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    password = secrets.token_hex(16)
    (folder / "password").write_text(password)
    if user is not None:
        shutil.chown(folder, user)
        shutil.chown(folder / "password", user)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    run = partial(
        subprocess.run, cwd=folder, user=user, check=True, capture_output=True, timeout=120
    )
    control = [str(found[-1].with_name("pg_ctl")), "--pgdata", "data", "--wait"]
    try:
        run([
            str(found[-1]), "--pgdata", "data", "--username", "prefect", "--pwfile", "password",
            "--auth", "scram-sha-256",
        ])  # fmt: skip
        options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories="
        run([*control, "start", "--log", "log", "--options", options])
        yield {
            "PREFECT_SERVER_DATABASE_DRIVER": "postgresql+asyncpg",
            "PREFECT_SERVER_DATABASE_HOST": "127.0.0.1",
            "PREFECT_SERVER_DATABASE_PORT": port,
            "PREFECT_SERVER_DATABASE_USER": "prefect",
            "PREFECT_SERVER_DATABASE_PASSWORD": password,
            "PREFECT_SERVER_DATABASE_NAME": "postgres",
        }
        run([*control, "stop", "--mode", "immediate"])
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def config(tiny_config: NightConfig, tmp_path: Path) -> Path:
    """The file of a configuration that fits the tiny model; slides need not come to rest."""
    path = tmp_path / "score.yaml"
    at_once = {"inbox": {"quiet_s": 0, "look_again_s": 0}}
    path.write_text(yaml.safe_dump(tiny_config.model_dump(mode="json") | at_once))
    return path
