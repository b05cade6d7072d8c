"""Thousands of mutations of real slides, each of which must end in a word and not in a crash.

python -m tools.fuzz [--slides FOLDER] [--mutations 2000] [--seed 0] [--out FOLDER]
python -m tools.fuzz --again her2st-b4.tif:0:1234 --out FOLDER      # make one mutation once more

Every mutation follows from the slide's name, the seed and its number alone.
"""

import json
import os
import queue
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tifffile
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tests.helpers.real_slides import SLIDES
from tests.helpers.trial import BUGS, DAMAGED, OK, Child, Ending
from wsi_pipeline.geometry import Box

WITHOUT_MPP = {"tcga-cr-7395-01a-01-ts1.svs": 0.5}
SUFFIXES = {".svs", ".tif", ".tiff"}
ODD_NUMBERS = (
    0, 1, 2, 3, 7, 8, 127, 255, 256, 257, 4096, 32767, 65535, 65536, 1 << 20, (1 << 24) - 1,
    1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, (1 << 32) - 2,
)  # fmt: skip
JPEG_MARKERS = bytes([*range(0xC0, 0xD0), *range(0xD8, 0xE2), 0xFE, 0x4F, 0x51, 0x52, 0x5C, 0x90])


@dataclass(frozen=True)
class Anatomy:
    """Where a slide keeps what; offsets of bytes in the file (classic TIFF, little-endian)."""

    directories: tuple[int, ...]
    entries: tuple[tuple[int, int], ...]  # (offset of the 12 bytes, tag)
    values: tuple[tuple[int, int], ...]  # (offset, bytes) of values outside the directories
    tiles: tuple[tuple[int, int, Box], ...]  # (offset, bytes, level-0 box)
    tables: tuple[tuple[int, int], ...]
    descriptions: tuple[tuple[int, int], ...]


def dissect(path: Path) -> Anatomy:
    """Find the parts of a slide that are worth hitting."""
    directories, entries, values, tiles, tables, descriptions = [], [], [], [], [], []
    with tifffile.TiffFile(path) as tiff:
        first = tiff.pages.first
        for page in tiff.pages:
            directories.append(page.offset)
            for tag in page.tags.values():
                entries.append((tag.offset, tag.code))
                if tag.valuebytecount > 4:
                    values.append((tag.valueoffset, tag.valuebytecount))
                if tag.code == 347:
                    tables.append((tag.valueoffset, tag.valuebytecount))
                if tag.code == 270 and tag.valuebytecount > 4:
                    descriptions.append((tag.valueoffset, tag.valuebytecount))
            if not page.is_tiled:
                continue
            scale = first.imagewidth / page.imagewidth
            across = -(-page.imagewidth // page.tilewidth)
            side = round(page.tilewidth * scale)
            for index, (offset, count) in enumerate(
                zip(page.dataoffsets, page.databytecounts, strict=True)
            ):
                x, y = index % across * side, index // across * side
                tiles.append((offset, count, Box(x, y, side, side)))
    return Anatomy(*map(tuple, (directories, entries, values, tiles, tables, descriptions)))


class Mutator:
    """One mutated copy of a slide; `l0_boxes` are the tiles that it hit."""

    def __init__(self, content: bytes, anatomy: Anatomy, rng: np.random.Generator) -> None:
        self.content = bytearray(content)
        self.l0_boxes: list[Box] = []
        self.steps: list[str] = []
        self._anatomy = anatomy
        self._rng = rng

    def mutate(self) -> None:
        """Apply one to three mutations, mostly one."""
        kinds = [kind for kind in KINDS if kind is not Mutator.tables or self._anatomy.tables]
        kinds = [
            kind for kind in kinds if kind is not Mutator.description or self._anatomy.descriptions
        ]
        for _ in range(self._rng.choice([1, 2, 3], p=[0.7, 0.2, 0.1])):
            kind = kinds[self._rng.integers(len(kinds))]
            self.steps.append(kind.__name__)
            kind(self)

    def flips(self) -> None:
        """Other bytes anywhere."""
        for _ in range(self._below(64) + 1):
            self.content[self._below(len(self.content))] = self._below(256)

    def block(self) -> None:
        """Zero, fill, scramble or copy a block."""
        size = min(1 << self._below(18), len(self.content) // 2)
        at = self._below(len(self.content) - size)
        source = self._below(len(self.content) - size)
        self.content[at : at + size] = (
            bytes(size),
            b"\xff" * size,
            self._rng.bytes(size),
            bytes(self.content[source : source + size]),
        )[self._below(4)]

    def shift(self) -> None:
        """Take bytes out, or put some in: all that follows moves."""
        at, size = self._below(len(self.content)), 1 << self._below(12)
        if self._below(2):
            del self.content[at : at + size]
        else:
            self.content[at:at] = self._rng.bytes(size)

    def truncation(self) -> None:
        """Cut the end off; or cut it and make up the length with zeros."""
        length = self._below(len(self.content))
        missing = len(self.content) - length
        del self.content[length:]
        if self._below(2):
            self.content += bytes(missing)

    def header(self) -> None:
        """Byte order, version, first directory."""
        self.content[self._below(8)] = self._below(256)

    def chain(self) -> None:
        """Where the next directory is said to be."""
        at = self._one_of(self._anatomy.directories)
        (count,) = struct.unpack_from("<H", self.content, at)
        self._put(
            at + 2 + 12 * count, "<I", self._one_of((self._odd(), *self._anatomy.directories))
        )

    def entry(self) -> None:
        """A tag's code, type, count or value."""
        at, _ = self._one_of(self._anatomy.entries)
        offset, form = ((0, "<H"), (2, "<H"), (4, "<I"), (8, "<I"))[self._below(4)]
        if self._below(2):
            self._put(at + offset, form, self._odd())
        else:
            self.content[at + offset + self._below(2)] ^= 1 << self._below(8)

    def value(self) -> None:
        """Numbers outside the directory: offsets and sizes of tiles, resolutions, texts."""
        at, size = self._one_of(self._anatomy.values)
        for _ in range(self._below(4) + 1):
            where = at + self._below(max(1, size // 4)) * 4
            self._put(where, "<I", self._odd() if self._below(2) else self._below(1 << 32))

    def tile(self) -> None:
        """Bytes of one tile."""
        at, size = self._tile()
        for _ in range(self._below(16) + 1):
            self.content[at + self._below(size)] = self._below(256)

    def tile_header(self) -> None:
        """The first bytes of a tile, where JPEG and JPEG 2000 say what they are."""
        at, size = self._tile()
        for _ in range(self._below(4) + 1):
            where = at + self._below(min(size, 160))
            if self._below(2):
                self.content[where : where + 2] = struct.pack(">H", self._odd() & 0xFFFF)
            else:
                self.content[where] = self._below(256)

    def tile_markers(self) -> None:
        """Markers within a tile: others, at other places."""
        at, size = self._tile()
        found = self.content.find(b"\xff", at + self._below(size), at + size)
        where = found if found >= 0 and self._below(2) else at + self._below(size)
        self.content[where : where + 2] = bytes([0xFF, self._one_of(JPEG_MARKERS)])

    def tables(self) -> None:
        """JPEG's quantisation and Huffman tables, which all tiles share."""
        at, size = self._one_of(self._anatomy.tables)
        for _ in range(self._below(4) + 1):
            self.content[at + self._below(size)] = self._below(256)
        self.l0_boxes.append(self._one_of(self._anatomy.tiles)[2])

    def swap(self) -> None:
        """Two tiles change places, or one is lost."""
        (one, size), (other, other_size) = self._tile(), self._tile()
        common = min(size, other_size)
        if self._below(2):
            self.content[one : one + size] = bytes(size)
        else:
            piece = self.content[one : one + common]
            self.content[one : one + common] = self.content[other : other + common]
            self.content[other : other + common] = piece

    def description(self) -> None:
        """Text of the header: digits, separators, signs that are no text."""
        at, size = self._one_of(self._anatomy.descriptions)
        signs = b"0123456789-+eE.,|=; \x00\n\xff\xc3naninfMPP"
        for _ in range(self._below(8) + 1):
            self.content[at + self._below(size)] = self._one_of(signs)
        for word in (b"MPP = ", b"AppMag = "):
            found = self.content.find(word, at, at + size)
            if found >= 0 and self._below(2):
                numbers = (b"0.0000", b"-1.000", b"1e-300", b"999999", b"nan000", b"0,2500")
                where = found + len(word)
                self.content[where : where + 6] = self._one_of(numbers)

    def _tile(self) -> tuple[int, int]:
        offset, count, l0_box = self._one_of(
            [tile for tile in self._anatomy.tiles if tile[1] and tile[0] < len(self.content) // 2]
            or self._anatomy.tiles
        )
        self.l0_boxes.append(l0_box)
        offset = min(offset, len(self.content) - 1)
        return offset, max(1, min(count, len(self.content) - offset))

    def _put(self, at: int, form: str, number: int) -> None:
        size = struct.calcsize(form)
        if at + size <= len(self.content):
            struct.pack_into(form, self.content, at, number & ((1 << 8 * size) - 1))

    def _odd(self) -> int:
        return int(self._one_of(ODD_NUMBERS))

    def _below(self, bound: int) -> int:
        return int(self._rng.integers(max(1, bound)))

    def _one_of(self, values):
        return values[self._below(len(values))]


KINDS: tuple[Callable[[Mutator], None], ...] = (
    Mutator.flips,
    Mutator.block,
    Mutator.shift,
    Mutator.truncation,
    Mutator.header,
    Mutator.chain,
    Mutator.entry,
    Mutator.entry,
    Mutator.entry,
    Mutator.value,
    Mutator.value,
    Mutator.tile,
    Mutator.tile_header,
    Mutator.tile_header,
    Mutator.tile_markers,
    Mutator.tables,
    Mutator.swap,
    Mutator.description,
)


@dataclass(frozen=True)
class Result:
    """One mutation and its ending."""

    slide: str
    seed: int
    number: int
    steps: tuple[str, ...]
    ending: Ending


def mutated(path: Path, anatomy: Anatomy, seed: int, number: int) -> Mutator:
    """Make a mutation; the same arguments make the same one."""
    rng = np.random.default_rng([seed, number, zlib.crc32(path.name.encode())])
    mutator = Mutator(path.read_bytes(), anatomy, rng)
    try:
        mutator.mutate()
    except (IndexError, struct.error):  # an earlier step cut off what a later one wanted to hit
        mutator.steps.append("cut short")
    return mutator


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
