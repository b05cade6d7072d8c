"""The public data of the breast model, from a repository that lies beside the test."""

import shutil
import subprocess

import pytest

from training.data import fetch as module
from training.data.check import main
from training.data.fetch import BY_HAND, fetch, still_missing
from wsi_pipeline.errors import ConfigError

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


@pytest.fixture
def repository(tmp_path):
    path = tmp_path / "repository"
    path.mkdir()
    (path / "LICENSE").write_text("BSD-3-Clause\n")
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    for command in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "first"]):
        subprocess.run(["git", *command], cwd=path, check=True)
    return f"file://{path}"


def test_it_is_cloned_once(repository, tmp_path):
    folder = fetch(tmp_path / "data", repository)
    assert (folder / "LICENSE").read_text() == "BSD-3-Clause\n"
    (folder / "LICENSE").write_text("changed\n")
    assert fetch(tmp_path / "data", repository) == folder
    assert (folder / "LICENSE").read_text() == "changed\n"


def test_what_fails_names_the_address_and_leaves_nothing_half(tmp_path):
    with pytest.raises(ConfigError, match="nowhere cannot be cloned"):
        fetch(tmp_path / "data", f"file://{tmp_path}/nowhere")
    assert not (tmp_path / "data" / "brca-m2c").exists()


def test_the_command_says_what_is_to_be_fetched_by_hand(repository, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "fetch", lambda root: fetch(root, repository))
    (tmp_path / "data" / "tnbc").mkdir(parents=True)
    main(["fetch", str(tmp_path / "data")])
    said = capsys.readouterr().out
    assert "BRCA-M2C lies in" in said
    assert len(still_missing(tmp_path / "data")) == len(BY_HAND) - 1
    assert "figshare" in said
    assert "zenodo" not in said
