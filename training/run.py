"""The folder of a run: its configuration, its checkpoint, and the weights that it arrived at."""

import logging
import pickle
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import BaseModel, ValidationError
from torch import Tensor

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.files import atomic_path

log = logging.getLogger(__name__)

CONFIG_NAME = "config.yaml"
CHECKPOINT_NAME = "checkpoint.pt"
BEST_NAME = "best.pt"

_RUN_ONLY = frozenset(
    {"root", "cache", "workers", "device", "compile", "checkpoint_every", "checkpoint_minutes"}
)
"""What says how and where a run goes on and not what it learns, wherever it stands."""


def run_folder(given: Path | None, config: Path) -> Path:
    """Return the folder of a run: the given one, or runs/<name of the configuration's file>."""
    return given or Path("runs") / config.stem


def open_run(run: Path, config: BaseModel) -> None:
    """Make a run's folder and save its configuration there, or see that it is the same.

    A run may go on elsewhere: where its data lies, on what device it runs and when it is saved may
    differ.

    Raises:
        ConfigError: If the folder holds a run with another configuration.

    """
    run.mkdir(parents=True, exist_ok=True)
    path = run / CONFIG_NAME
    if not path.exists():
        now = config.model_dump(mode="json")
        with atomic_path(path) as partial_path:
            partial_path.write_text(
                yaml.safe_dump(now, sort_keys=False, allow_unicode=True), encoding="utf-8"
            )
        return
    if changes := _changes(_saved(path, config), config.model_dump(mode="json")):
        more = f" and {len(changes) - 3} more" if len(changes) > 3 else ""
        raise ConfigError(
            f"{path} is of a run with another configuration: {'; '.join(changes[:3])}{more}. "
            "Choose another folder with --run, or delete that one."
        )


def config_of(run: Path) -> dict[str, Any]:
    """Return the configuration that a run was begun with; empty if it left none."""
    path = run / CONFIG_NAME
    content = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else None
    return content if isinstance(content, dict) else {}


def trained_weights(run: Path) -> dict[str, Tensor]:
    """Read the weights that a run has arrived at, on the CPU: the best if it keeps them.

    Averaged ones, if it averages.

    Raises:
        ConfigError: If there are none, they cannot be read, or the run is not finished.

    """
    path = run / CHECKPOINT_NAME
    if not path.is_file():
        raise ConfigError(f"{path} does not exist; give the folder of a finished training run.")
    saved = load_checkpoint(path)
    epochs = saved.get("epochs", saved["epoch"])  # older ones do not say
    if saved["epoch"] < epochs:
        raise ConfigError(
            f"{run} is not finished: it has done {saved['epoch']} of {epochs} epochs. Give its own "
            "command again, which goes on, and then this one."
        )
    if (run / BEST_NAME).is_file():
        best: dict[str, Tensor] = load_checkpoint(run / BEST_NAME)["weights"]
        return best
    network: dict[str, Tensor] = saved["network"]
    averaged: dict[str, Tensor] = saved.get("average", {})
    return {name: averaged.get(f"module.{name}", tensor) for name, tensor in network.items()}


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a file that training saved, on the CPU.

    Raises:
        ConfigError: If it is damaged.

    """
    try:
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise ConfigError(
            f"{path} is damaged ({error}); copy it again, or delete its folder and train anew."
        ) from error
    return saved


def _saved(path: Path, config: BaseModel) -> dict[str, Any]:
    """Return what a run was begun with; what it did not know of yet has its default."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return type(config).model_validate(content).model_dump(mode="json")
    except (yaml.YAMLError, UnicodeDecodeError, ValidationError) as error:
        raise ConfigError(
            f"{path} is of a run with another configuration, or damaged ({error}). Choose another "
            "folder with --run, or delete that one."
        ) from error


def _changes(before: Any, now: Any, name: str = "") -> list[str]:  # noqa: ANN401
    """Say which values differ, by their dotted names."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [key for key in {**before, **now} if key not in _RUN_ONLY]
        parts = [(before.get(key), now.get(key), f"{name}.{key}".strip(".")) for key in keys]
        return [change for part in parts for change in _changes(*part)]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        numbered = enumerate(zip(before, now, strict=True))
        return [change for i, (b, n) in numbered for change in _changes(b, n, f"{name}.{i}")]
    return [] if before == now else [f"{name} was {before} and is {now}"]
