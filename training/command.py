"""What both stages' commands take from the command line."""

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel

from training.data import under
from training.run import run_folder
from wsi_pipeline.validation import load_yaml

Config = TypeVar("Config", bound=BaseModel)


@dataclass(frozen=True)
class Command(Generic[Config]):
    """What to train, where, and from what."""

    config: Config
    run: Path
    init: str | None


def command(
    kind: type[Config], arguments: Sequence[str] | None, *, prog: str, about: str | None, init: str
) -> Command[Config]:
    """Read the arguments of a stage's command.

    Args:
        kind: the stage's configuration.
        arguments: as given; those of the process by default.
        prog: how the command is called.
        about: what it does.
        init: what ``--init`` does.

    Raises:
        ConfigError: If the configuration or a setting is not understood.

    """
    parser = argparse.ArgumentParser(prog=prog, description=about)
    parser.add_argument("--config", type=Path, required=True, help="YAML file")
    parser.add_argument("--init", metavar="RUN or BUNDLE", help=init)
    parser.add_argument(
        "--data", type=Path, default=Path(), help="folder that the data's root is relative to"
    )
    parser.add_argument("--run", type=Path, help="folder of the run; runs/<name of the config>")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a value of the configuration, such as fit.epochs=20; may be repeated",
    )
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    config = load_yaml(chosen.config, kind, chosen.set)
    moved = under(config.data, chosen.data)  # type: ignore[attr-defined]
    config = config.model_copy(update={"data": moved})
    return Command(config, run_folder(chosen.run, chosen.config), chosen.init)
