"""Both training commands, killed at random moments and given again, end as if nothing had happened.

The processes are the commands' own, killed by SIGKILL: nothing is caught, flushed or tidied. They
are forked from a server that has imported everything, so that the whole of their life is work.
"""

import json
import logging
import random
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.helpers.killing import run_and_kill, server_of
from training import reg, seg
from training.run import trained_weights

log = logging.getLogger(__name__)

CONFIGS = Path(__file__).parents[2] / "configs"
KILLS = 2


@pytest.fixture(scope="module")
def server():
    return server_of("training.reg")


@pytest.fixture
def command(server, tmp_path, caplog):
    """Run a stage's command, and kill it after some seconds; return how long it ran."""
    caplog.set_level(logging.INFO)  # shown if the test fails

    def run(stage, arguments: list[str], *, kill_after: float | None = None) -> float:
        return run_and_kill(server.Process(target=stage.main, args=(arguments,)), kill_after)

    return run


def smoke(name: str, folder: Path, patches: Path, **fit) -> Path:
    """A smoke configuration with its patches in a folder of their own."""
    content = yaml.safe_load((CONFIGS / name).read_text())
    content["data"] |= {"train": 64, "validation": 8, "cache": str(patches)}
    content["fit"] |= fit
    path = folder / name
    path.write_text(yaml.safe_dump(content))
    return path


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def epochs(run: Path) -> int:
    path = run / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def assert_same(ours: Path, theirs: Path) -> None:
    weights, expected = trained_weights(ours), trained_weights(theirs)
    assert weights.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(weights[name], tensor, err_msg=name)
    assert metrics(ours) == metrics(theirs)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.long)])
def test_both_stages_survive_kills(seed, command, tmp_path):
    rng = random.Random(seed)
    more = [{}, {"average": 0.9, "checkpoint_every": 2, "schedule": "cosine", "decay_every": None}]
    patches = tmp_path / "patches"
    first = smoke("seg-smoke.yaml", tmp_path, patches, **more[seed])
    second = smoke("reg-smoke.yaml", tmp_path, patches, **more[seed] | {"epochs": 3})
    whole = tmp_path / "seg"
    for stage, config, init in [(seg, first, []), (reg, second, ["--init", str(whole)])]:
        name = config.stem[:3]
        arguments = ["--config", str(config), *init, "--run", str(tmp_path / name)]
        took = command(stage, arguments)

        arguments[-1] = str(tmp_path / f"{name}-killed")
        for _ in range(KILLS):
            ran = command(stage, arguments, kill_after=rng.uniform(0.1, 0.9) * took)
            done = epochs(tmp_path / f"{name}-killed")
            log.info("%s: ended after %.2f of %.2f s, %d epochs", name, ran, took, done)
        command(stage, arguments)
        assert_same(tmp_path / f"{name}-killed", tmp_path / name)

    bundles = [tmp_path / folder / "bundle" for folder in ("reg", "reg-killed")]
    assert {p.name for p in bundles[0].iterdir()} == {p.name for p in bundles[1].iterdir()}
    for path in bundles[0].iterdir():
        assert path.read_bytes() == (bundles[1] / path.name).read_bytes()
