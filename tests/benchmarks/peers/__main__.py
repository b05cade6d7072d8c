"""Run everyone, and print the tables.

python -m tests.benchmarks.peers [--quick]
"""

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer
import yaml

from tests.benchmarks.big_slide import build
from tests.benchmarks.eight_bits import CALIBRATED_ON, keep_in_8_bits
from tests.benchmarks.peers import report
from tests.benchmarks.peers.catalogue import OURS, PEERS, Ours, Peer, Setting
from tests.benchmarks.peers.environments import python_of
from tests.benchmarks.peers.export import export, untrained_bundle
from tests.benchmarks.peers.measure import CommandFailed, measure
from tests.benchmarks.peers.report import Run
from tests.benchmarks.peers.task import L0Corner, Task
from wsi_pipeline.engine.int8 import calibration
from wsi_pipeline.errors import ConfigError, WsiError
from wsi_pipeline.model.bundle import BUNDLED_MODEL, ModelBundle
from wsi_pipeline.outputs.tile_table import read_parquet
from wsi_pipeline.scoring.config import ScoreConfig
from wsi_pipeline.scoring.sample import sample_tiles
from wsi_pipeline.slide.slide import Slide
from wsi_pipeline.tiles.grid import steps_to_cover

log = logging.getLogger(__name__)

ROOT = Path(__file__).parents[3]
WSI = Path(sys.executable).with_name("wsi")
CACHE = Path.home() / ".cache" / "wsi-benchmarks"
REPEATS = (3, 5)
QUICK_REPEATS = (1, 2)
LIMIT_S = 900

STAGE = re.compile(r"INFO +(?P<stage>[a-z ]+?) +(?P<seconds>[\d.]+) s, peak memory")
WAITED = re.compile(r"the model waited (?P<seconds>[\d.]+) s for pixels")


@dataclass(frozen=True)
class BigSlide:
    """A slide to be scored."""

    name: str
    path: Path
    mpp: float
    candidates: int
    """Tiles of its whole grid, tissue or not."""


@dataclass(frozen=True)
class Bench:
    """What is the same for all runs."""

    folder: Path
    bundle: ModelBundle
    models: dict[str, Path]
    cores: tuple[int, ...]
    trained: bool

    @property
    def environment(self) -> dict[str, str]:
        """What all processes are told: their threads, and to fetch nothing."""
        threads = str(len(self.cores))
        names = ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "NUMBA")
        return {
            **os.environ,
            **{f"{name}_NUM_THREADS": threads for name in names},
            "PYTHONPATH": str(ROOT),
            "HF_HUB_OFFLINE": "1",
            "CUDA_VISIBLE_DEVICES": "",
        }

    def quantise(self, slide: BigSlide) -> None:
        """Make the bundle's graph in 8 bits, once; if that fails, its row will say so."""
        try:
            calibration(self.bundle)
        except ConfigError:
            log.info("Quantising %s", self.bundle.card.name)
            locations, card = [str(slide.path)], self.bundle.card
            try:
                tiles = sample_tiles(locations, card, ScoreConfig(), count=CALIBRATED_ON, seed=0)
                keep_in_8_bits(self.bundle, tiles, slides=1, trained=self.trained)
            except WsiError as error:
                log.warning("No graph in 8 bits: %s", error)

    def run_ours(self, way: Ours, slide: BigSlide, folder: str = "runs") -> Run:
        """Run `wsi score` as users do."""
        out = _empty(self.folder / folder / f"{slide.name}, {way.name}")
        run = Run(way.name, "as it comes", slide.name)
        settings = {"engine": way.engine, "workers": len(self.cores)}
        config = out / "config.yaml"
        config.write_text(yaml.safe_dump(settings), encoding="utf-8")
        command = [str(WSI), "score", str(slide.path), "--out", str(out / "results")]
        command += ["--bundle", self.bundle.source, "--config", str(config)]
        try:
            ScoreConfig.resolve(config)
            cost = measure(
                command,
                environment=self.environment,
                cores=self.cores,
                log=out / "log.txt",
                results=out / "results",
                limit_s=LIMIT_S,
            )
            results = out / "results" / slide.path.stem
            table, _ = read_parquet(results / "tiles.parquet")
        except (WsiError, CommandFailed) as error:
            log.warning("%s: %s", way.name, error)
            return report.Run(run.name, run.setting, run.slide, failure=str(error))
        text = (results / "run.log").read_text(encoding="utf-8")
        stages = {found["stage"]: float(found["seconds"]) for found in STAGE.finditer(text)}
        waited = sum(float(found["seconds"]) for found in WAITED.finditer(text))
        scoring = stages.get("tiling and scoring", 0.0)
        corners = [(int(x), int(y)) for x, y in table.l0_xy]
        log.info("%s, %s: %.1f s", slide.name, way.name, cost.wall_s)
        return Run(
            run.name,
            run.setting,
            run.slide,
            cost=cost,
            scores=dict(zip(corners, map(float, table.cellularity), strict=True)),
            model_s=scoring - waited,
            stages={**stages, "of it waiting for pixels": waited},
        )

    def run_peer(
        self,
        peer: Peer,
        python: Path,
        setting: Setting,
        slide: BigSlide,
        tiles: Sequence[L0Corner] | None,
        folder: str = "runs",
    ) -> Run:
        """Run other software on tiles of ours, or on its own."""
        whose = "own tiles" if tiles is None else "our tiles"
        out = _empty(self.folder / folder / f"{slide.name}, {peer.name}, {whose}")
        card = self.bundle.card
        task = Task(
            slide=str(slide.path),
            slide_mpp=slide.mpp,
            out=str(out),
            bundle=self.bundle.source,
            model=str(self.models.get(setting.graph, self.models["traced"])),
            mean=card.architecture.mean,
            std=card.architecture.std,
            mpp=card.mpp,
            tile_px=card.tile_px,
            tiles=None if tiles is None else tuple(tiles),
            batch=setting.batch,
            workers=setting.workers,
            reader=setting.reader,
            speedup=setting.graph == "speedup",
        )
        command = [str(python), "-m", f"tests.benchmarks.peers.{peer.script}", str(task.save())]
        run = Run(peer.name, str(setting), slide.name, own_tiles=tiles is None)
        try:
            cost = measure(
                command,
                environment=self.environment,
                cores=self.cores,
                log=out / "log.txt",
                results=task.results,
                limit_s=LIMIT_S,
            )
            scores, model_s = task.given()
        except (CommandFailed, OSError) as error:
            log.warning("%s, %s, %s: %s", slide.name, peer.name, setting, error)
            return Run(run.name, run.setting, run.slide, run.own_tiles, failure=str(error))
        log.info("%s, %s, %s, %s: %.1f s", slide.name, peer.name, setting, whose, cost.wall_s)
        return Run(run.name, run.setting, run.slide, run.own_tiles, cost, scores, model_s)

    def best_setting(
        self, peer: Peer, python: Path, slide: BigSlide, tiles: Sequence[L0Corner]
    ) -> tuple[Setting, list[Run]]:
        """Try a peer's settings on a small slide; return the fastest, and all that was tried."""
        best, best_s, tried = peer.start, float("inf"), []
        for changes in ({}, *peer.changes):
            setting = best.but(changes)
            run = self.run_peer(peer, python, setting, slide, tiles, "trials")
            tried.append(run)
            if run.cost is not None and run.cost.wall_s < best_s:
                best, best_s = setting, run.cost.wall_s
        return best, tried

    def agreement(
        self, settings: dict[Peer, tuple[Path, Setting]], slide: BigSlide, calibrate_on: BigSlide
    ) -> list[Run]:
        """Score a small slide with a model that was trained: ours first, then everybody."""
        demo = copied(BUNDLED_MODEL, self.folder)
        bench = replace(self, bundle=demo, models=export(demo, self.folder), trained=True)
        bench.quantise(calibrate_on)
        ours = [bench.run_ours(way, slide, "agreement") for way in OURS]
        tiles = list(ours[0].scores or ())
        if not tiles:
            return []
        return [
            *ours,
            *(
                bench.run_peer(peer, python, setting, slide, tiles, "agreement")
                for peer, (python, setting) in settings.items()
            ),
        ]


def copied(location: Path, folder: Path) -> ModelBundle:
    """Return a copy of a bundle below a folder, beside which a graph may be put."""
    bundle = ModelBundle.load(location)
    copy = folder / f"bundle-{bundle.digest[:12]}"
    bundle.save(copy)
    return ModelBundle.load(copy)


def big_slide(folder: Path, repeats: int) -> BigSlide:
    """Build a slide, or take the one of an earlier run; alone in its folder, as WSInfer wants."""
    path = folder / "slides" / f"{repeats}" / f"repeated-{repeats}.tif"
    if not path.is_file():
        log.info("Building %s", path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = folder / "slides" / f"partial-{repeats}.tif"
        build(partial, repeats)
        partial.replace(path)
    with Slide.open(path) as slide:
        tile, size, mpp = 512 * 0.5 / slide.mpp, slide.l0_size, slide.mpp
    across = (steps_to_cover(side, tile, tile) for side in (size.width, size.height))
    columns, rows = across
    return BigSlide(path.stem, path, mpp, columns * rows)


def main(
    folder: Annotated[
        Path, typer.Option(help="For the peers' environments, slides and results.")
    ] = CACHE,
    bundle: Annotated[
        Path | None, typer.Option(help="A trained model; None is ResNet18 twice, untrained.")
    ] = None,
    backbone: Annotated[str, typer.Option(help="Of the untrained model.")] = "resnet18",
    repeats: Annotated[
        list[int] | None, typer.Option(help="Sizes of the slide, as repeats each way.")
    ] = None,
    cores: Annotated[int, typer.Option(help="Cores, and threads, for each.")] = 2,
    only: Annotated[str, typer.Option(help="Leave out peers whose names lack this.")] = "",
    quick: Annotated[
        bool, typer.Option("--quick", help="Tiny slides, and no settings tried.")
    ] = False,
) -> None:
    """Measure everyone on the same slides with the same weights."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("wsi_pipeline").setLevel(logging.WARNING)
    # Whoever ends this ends the process that it measures, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    folder = folder.absolute()
    sizes = sorted(repeats or (QUICK_REPEATS if quick else REPEATS))
    peers = [peer for peer in PEERS if only.lower() in peer.name.lower()]
    allowed = tuple(sorted(os.sched_getaffinity(0))[:cores])
    described = report.machine(allowed)
    pythons, failures = make_environments(peers, folder)

    model = (
        ModelBundle.load(untrained_bundle(backbone, folder))
        if bundle is None
        else copied(bundle.absolute(), folder)
    )
    bench = Bench(folder, model, export(model, folder), allowed, trained=bundle is not None)
    slides = [big_slide(folder, size) for size in sizes]
    runs = list(failures)
    bench.quantise(slides[-1])
    for way in OURS:  # so that libraries were read before, and graphs exported
        bench.run_ours(way, big_slide(folder, 1), "trials")
    ours = [bench.run_ours(way, slide) for way in OURS for slide in slides]
    runs += ours
    tiles = {run.slide: list(run.scores) for run in reversed(ours) if run.scores}
    if len(tiles) < len(slides):
        raise SystemExit("ours scored none of a slide's tiles, so that there is nothing to compare")
    tried: list[Run] = []
    settings: dict[Peer, tuple[Path, Setting]] = {}
    for peer in peers:
        if (python := pythons.get(peer.name)) is None:
            continue
        setting = peer.start
        if not quick:
            setting, trials = bench.best_setting(peer, python, slides[0], tiles[slides[0].name])
            tried += trials
        settings[peer] = python, setting
        runs += [
            bench.run_peer(peer, python, setting, slide, tiles[slide.name]) for slide in slides
        ]
        if peer.finds_tissue:
            runs.append(bench.run_peer(peer, python, setting, slides[-1], None))
    trained = [] if bundle else bench.agreement(settings, big_slide(folder, 1), slides[-1])
    write(bench, slides, runs, tried, trained, described)


def make_environments(peers: Sequence[Peer], folder: Path) -> tuple[dict[str, Path], list[Run]]:
    """Return the interpreter of each peer, and a row for each that cannot be installed."""
    pythons: dict[str, Path] = {}
    failures = []
    for peer in peers:
        if peer.environment is None:
            pythons[peer.name] = Path(sys.executable)
            continue
        try:
            pythons[peer.name] = python_of(peer.environment, folder)
        except (subprocess.CalledProcessError, OSError) as error:
            failures.append(Run(peer.name, "", "", failure=f"it cannot be installed ({error})"))
    return pythons, failures


def write(
    bench: Bench,
    slides: Sequence[BigSlide],
    runs: list[Run],
    tried: list[Run],
    trained: list[Run],
    described: str,
) -> None:
    """Print the tables, and keep all figures beside the results."""
    names = [slide.name for slide in slides]
    shared = [run for run in runs if not run.own_tiles]
    large = [run for run in shared if run.slide == names[-1]]
    reference = next(run for run in large if run.scores)
    float32 = {way.name for way in OURS if way.engine.get("precision") == "float32"}
    rivals = [run for run in large if run.name in float32 and run.cost is not None]
    fastest = min(rivals, key=lambda run: run.cost.wall_s if run.cost else 0.0, default=reference)
    own = [reference, *(run for run in runs if run.own_tiles)]
    card = bench.bundle.card
    parts = [
        f"{described}. Model: {card.name} {card.version}, digest {bench.bundle.digest[:12]}, "
        f"{card.tile_px} px at {card.mpp:g} µm/px. Slides: "
        + ", ".join(f"{s.name} of {s.candidates} tiles ({_mb(s.path):.0f} MB)" for s in slides)
        + f". '× ours' is against {fastest.name}.",
        f"On the same tiles, {names[-1]}:",
        report.speed_table(shared, names, fastest.name),
        "On tiles of one's own choice:",
        report.own_tiles_table(own, slides[-1].candidates),
        f"Scores of these weights, against {reference.name}:",
        report.agreement_table(large, reference),
        "Ours by stage:",
        report.stages_table(shared),
    ]
    if trained:
        parts += [
            "Scores of the demonstration model, which was trained, against ours:",
            report.agreement_table(trained, trained[0]),
        ]
    if tried:
        rows = [
            [run.name, run.setting, f"{run.cost.wall_s:.1f}" if run.cost else "failed"]
            for run in tried
        ]
        parts += [f"Settings tried, {names[0]}:", report.table(["", "setting", "wall s"], rows)]
    text = "\n\n".join(parts)
    print(text)
    (bench.folder / "report.md").write_text(f"{text}\n", encoding="utf-8")
    everything = {"runs": [r.as_json() for r in runs], "tried": [r.as_json() for r in tried]}
    (bench.folder / "runs.json").write_text(json.dumps(everything), encoding="utf-8")


def _empty(folder: Path) -> Path:
    """Make a folder anew: a run must not go on where an earlier one left off."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _mb(path: Path) -> float:
    return path.stat().st_size / 1e6


if __name__ == "__main__":
    typer.run(main)
