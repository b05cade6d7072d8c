import pytest

import wsi_pipeline as wsi
from tests.helpers.real_slides import SAMPLE


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """The result of the sample by the bundled model."""
    with pytest.warns(UserWarning, match="demonstration"):
        return wsi.score(SAMPLE, tmp_path_factory.mktemp("out"), progress=lambda *_: None).folder
