"""Fixtures for flows: real Prefect servers, and what their runs need."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from tests.flows.prefect_site import Site
from wsi_pipeline.config import ScoreConfig


@pytest.fixture(scope="module")
def make_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Site]]:
    """Make a site; nothing runs on it yet, and all that will is ended after the module's tests."""
    with ExitStack() as stack:

        def make(database: str | None = None, **settings: str) -> Site:
            home = tmp_path_factory.mktemp("prefect")
            return stack.enter_context(Site(home, database, **settings))

        yield make


@pytest.fixture(scope="module")
def site(make_site: Callable[..., Site]) -> Site:
    """A site with a running server."""
    site = make_site()
    site.start_server()
    return site


@pytest.fixture(scope="module")
def served(site: Site) -> Site:
    """A site on which `flows.serve` runs."""
    site.serve()
    return site


@pytest.fixture
def config(tiny_config: ScoreConfig, tmp_path: Path) -> Path:
    """The file of a configuration that fits the tiny model."""
    path = tmp_path / "score.yaml"
    path.write_text(yaml.safe_dump(tiny_config.model_dump(mode="json")))
    return path
