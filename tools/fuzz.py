"""Thousands of mutations of real slides, each of which must end in a word and not in a crash.

python -m tools.fuzz [--slides FOLDER] [--mutations 2000] [--seed 0] [--out FOLDER]
python -m tools.fuzz --again her2st-b4.tif:0:1234 --out FOLDER      # make one mutation once more

Every mutation follows from the slide's name, the seed and its number alone.
"""

import json
import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tests.helpers.real_slides import SLIDES
from tests.helpers.trial import BUGS, DAMAGED, OK, Child, Ending
from tools.mutations import dissect, mutated

WITHOUT_MPP = {"tcga-cr-7395-01a-01-ts1.svs": 0.5}
SUFFIXES = {".svs", ".tif", ".tiff"}


@dataclass(frozen=True)
class Result:
    """One mutation and its ending."""

    slide: str
    seed: int
    number: int
    steps: tuple[str, ...]
    ending: Ending


def fuzz(
    slides: list[Path], mutations: int, seed: int, workers: int, child: Callable[[], Child] = Child
) -> Iterator[Result]:
    """Give each mutation's result as it comes."""
    waiting: queue.SimpleQueue[tuple[Path, int]] = queue.SimpleQueue()
    for number in range(mutations):
        for path in slides:
            waiting.put((path, number))
    results: queue.SimpleQueue[Result | BaseException | None] = queue.SimpleQueue()
    anatomies = {path: dissect(path) for path in slides}
    stop = threading.Event()
    folder = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path.cwd()

    def work(worker: int) -> None:
        scratch = folder / f"fuzz-{os.getpid()}-{worker}.svs"
        try:
            with child() as victim:
                while not stop.is_set():
                    try:
                        path, number = waiting.get_nowait()
                    except queue.Empty:
                        return
                    mutator = mutated(path, anatomies[path], seed, number)
                    scratch.write_bytes(mutator.content)
                    ending = victim.attempt(
                        scratch, WITHOUT_MPP.get(path.name), tuple(mutator.l0_boxes[:3])
                    )
                    results.put(Result(path.name, seed, number, tuple(mutator.steps), ending))
        except BaseException as error:  # noqa: BLE001 - raised by the consumer
            results.put(error)
        finally:
            scratch.unlink(missing_ok=True)
            results.put(None)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(workers)]
    for thread in threads:
        thread.start()
    try:
        left = workers
        while left:
            result = results.get()
            if isinstance(result, BaseException):
                raise result
            if result is None:
                left -= 1
            else:
                yield result
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def table(results: list[Result]) -> str:
    """Return the counts as Markdown: slides down, endings across."""
    words = [OK, DAMAGED]
    words += sorted({result.ending.word for result in results} - {*words, *BUGS})
    words += BUGS
    lines = [
        "| slide | mutations | " + " | ".join(words) + " | longest, s | largest, MiB |",
        "|---" * (len(words) + 4) + "|",
    ]
    for slide in (*sorted({result.slide for result in results}), None):
        of_slide = [result for result in results if slide in (None, result.slide)]
        counts = Counter(result.ending.word for result in of_slide)
        cells = [
            slide or "**all**",
            f"{len(of_slide):,}",
            *(f"{counts[word]:,}" for word in words),
            f"{max(result.ending.seconds for result in of_slide):.1f}",
            f"{max(result.ending.peak_mib for result in of_slide):.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(
    slides: Annotated[Path, typer.Option(help="Folder of real TIFF slides.")] = SLIDES,
    mutations: Annotated[int, typer.Option(help="Of each slide.")] = 2000,
    seed: int = 0,
    workers: Annotated[int, typer.Option(help="Child processes.")] = 2,
    out: Annotated[Path, typer.Option(help="For counts.json, counts.md, endings.jsonl.")] = Path(
        "fuzz"
    ),
    only: Annotated[str, typer.Option(help="Part of the names of the slides to take.")] = "",
    again: Annotated[str, typer.Option(help="SLIDE:SEED:NUMBER of one mutation to repeat.")] = "",
) -> None:
    """Mutate real slides and count how reading them ends."""
    out.mkdir(parents=True, exist_ok=True)
    if again:
        name, its_seed, number = again.rsplit(":", 2)
        path = slides / name
        mutator = mutated(path, dissect(path), int(its_seed), int(number))
        kept = out / f"{path.stem}-{its_seed}-{number}{path.suffix}"
        kept.write_bytes(mutator.content)
        with Child() as victim:
            ending = victim.attempt(kept, WITHOUT_MPP.get(name), tuple(mutator.l0_boxes[:3]))
        Console().print(f"{kept}: {', '.join(mutator.steps)}", ending, markup=False)
        return
    paths = sorted(
        path for path in slides.iterdir() if path.suffix in SUFFIXES and only in path.name
    )
    results: list[Result] = []
    start = time.monotonic()
    with (
        Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        ) as progress,
        (out / "endings.jsonl").open("w", encoding="utf-8") as endings,
    ):
        task = progress.add_task("mutations", total=mutations * len(paths))
        try:
            for result in fuzz(paths, mutations, seed, workers):
                results.append(result)
                endings.write(json.dumps(asdict(result)) + "\n")
                endings.flush()
                bugs = sum(result.ending.word in BUGS for result in results)
                progress.update(task, advance=1, description=f"mutations, {bugs} bugs")
        except KeyboardInterrupt:
            progress.console.print("Stopped: these are the counts so far.")
    counts = {
        slide: Counter(result.ending.word for result in results if result.slide == slide)
        for slide in sorted({result.slide for result in results})
    }
    about = {
        "seed": seed,
        "mutations": mutations,
        "seconds": round(time.monotonic() - start),
        "counts": counts,
        "bugs": [
            f"{result.slide}:{result.seed}:{result.number} {result.ending.word}"
            for result in results
            if result.ending.word in BUGS
        ],
    }
    (out / "counts.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    (out / "counts.md").write_text(table(results) + "\n", encoding="utf-8")
    Console().print(table(results), markup=False)


if __name__ == "__main__":
    typer.run(main)
