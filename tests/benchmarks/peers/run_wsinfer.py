"""WSInfer's own command, `wsinfer run`, in its own environment.

Two things differ from what a user types. The registry of its models, which it fetches from the
network while it is being imported, is empty; and its model is timed. Where tiles are given, they
lie in its `patches` folder as an earlier `wsinfer patch` would have left them.
"""

import csv
import importlib
import json
from pathlib import Path
from typing import Any

from tests.benchmarks.peers.task import Task, Timed, load


def import_commands() -> Any:
    """Import the command line without the network."""
    client: Any = importlib.import_module("wsinfer_zoo.client")
    client.load_registry = lambda *_args: client.ModelRegistry(models={})
    return importlib.import_module("wsinfer.cli.cli")


def time_model() -> list[Timed]:
    """Have every model that is loaded from now on be timed; the last one is what runs."""
    run_inference: Any = importlib.import_module("wsinfer.modellib.run_inference")
    load_module, compile_module = (
        run_inference.get_pretrained_torch_module,
        run_inference.jit_compile,
    )
    timed: list[Timed] = []

    def remember(model: Any) -> Timed:
        timed.append(Timed(model))
        return timed[-1]

    run_inference.get_pretrained_torch_module = lambda model: remember(load_module(model))
    run_inference.jit_compile = lambda model: remember(compile_module(model.inner))
    return timed


def write_config(task: Task) -> Path:
    """Write what WSInfer must know of a model; it takes logits and adds the sigmoid itself."""
    path = Path(task.out) / "config.json"
    config = {
        "spec_version": "1.0",
        "architecture": "segmentation guided regression",
        "num_classes": 1,
        "patch_size_pixels": task.tile_px,
        "spacing_um_px": task.mpp,
        "class_names": ["cellularity"],
        "transform": [
            {"name": "Resize", "arguments": {"size": task.tile_px}},
            {"name": "ToTensor"},
            {"name": "Normalize", "arguments": {"mean": task.mean, "std": task.std}},
        ],
    }
    path.write_text(json.dumps(config), encoding="utf-8")
    return path


def give_tiles(task: Task) -> None:
    """Write the list of tiles; with a mask beside it WSInfer looks for no tissue itself."""
    patchlib: Any = importlib.import_module("wsinfer.patchlib")
    numpy: Any = importlib.import_module("numpy")
    name = Path(task.slide).stem
    for folder in ("patches", "masks"):
        (task.results / folder).mkdir(parents=True)
    (task.results / "masks" / f"{name}.jpg").touch()
    patchlib.save_hdf5(
        path=task.results / "patches" / f"{name}.h5",
        coords=numpy.array(task.tiles),
        patch_size=task.l0_tile,
        patch_spacing_um_px=task.mpp,
    )


def main() -> None:
    task = load()
    commands = import_commands()
    timed = time_model()
    if task.tiles is not None:
        give_tiles(task)
    options = {
        "--wsi-dir": Path(task.slide).parent,
        "--results-dir": task.results,
        "--config": write_config(task),
        "--model-path": task.model,
        "--batch-size": task.batch,
        "--num-workers": task.workers,
    }
    arguments = ["--backend", task.reader, "run", "--speedup" if task.speedup else "--no-speedup"]
    arguments += [str(part) for option in options.items() for part in option]
    commands.cli(arguments, standalone_mode=False)
    output = task.results / "model-outputs-csv" / Path(task.slide).with_suffix(".csv").name
    with output.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    task.give(
        [(int(row["minx"]), int(row["miny"])) for row in rows],
        [float(row["prob_cellularity"]) for row in rows],
        timed[-1].seconds,
    )


if __name__ == "__main__":
    main()
