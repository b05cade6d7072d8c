"""``python -m training.tables``: train what Tables 1 to 6 need, and write them."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from training.data import under
from training.run import run_folder
from training.tables.config import TablesConfig
from training.tables.figures import (
    confusion_table,
    guidance_table,
    histogram_table,
    regression_table,
    segmentation_table,
    slug,
)
from training.tables.runs import (
    RegressionResult,
    run_area_ratio,
    run_regression,
    run_segmentation,
)
from training.tables.table import Table, write_tables
from wsi_pipeline.errors import WsiError
from wsi_pipeline.model.network import build_network
from wsi_pipeline.validation import load_yaml

log = logging.getLogger(__name__)


def make_tables(config: TablesConfig, runs: Path, *, root: Path) -> list[Table]:
    """Train what is not trained yet, and make all tables.

    Args:
        config: what to train.
        runs: folder of the runs.
        root: folder that the sets' roots are relative to.

    """
    for row in config.rows.values():
        build_network(row.architecture)  # so that no typing error shows after days
    tables: list[Table] = []
    regressions: dict[str, Sequence[RegressionResult]] = {}
    for name, configured in config.sets.items():
        data = under(configured, root)
        folder = runs / slug(name)
        segmentations = run_segmentation(config, data, folder)
        tables += [
            segmentation_table(name, segmentations, "validation"),
            segmentation_table(name, segmentations, "training"),
            *(confusion_table(name, segmentations, gamma) for gamma in config.gammas),
        ]
        ratios = run_area_ratio(config, data, folder)
        regressions[name] = [*ratios, *run_regression(config, data, folder)]
        tables.append(regression_table(name, regressions[name]))
        if guidance := guidance_table(name, regressions[name]):
            tables.append(guidance)
    return [*tables, histogram_table(regressions)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what Tables 1 to 6 need, and write them as Markdown and CSV."""
    parser = argparse.ArgumentParser(prog="python -m training.tables", description=main.__doc__)
    parser.add_argument("--config", type=Path, required=True, help="YAML file")
    parser.add_argument(
        "--data", type=Path, default=Path(), help="folder that the sets' roots are relative to"
    )
    parser.add_argument("--runs", type=Path, help="folder of the runs; runs/<name of the config>")
    parser.add_argument("--out", type=Path, default=Path("tables"), help="folder of the tables")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        config = load_yaml(chosen.config, TablesConfig)
        runs = run_folder(chosen.runs, chosen.config)
        write_tables(make_tables(config, runs, root=chosen.data), chosen.out)
    except WsiError as error:
        raise SystemExit(str(error)) from error
    log.info("tables: %s", chosen.out / "tables.md")


if __name__ == "__main__":
    main()
