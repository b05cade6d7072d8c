"""What a night can hold, and what runs out first: the model of costs behind docs/scaling.md.

python -m tests.benchmarks.scaling_model
"""

from dataclasses import dataclass, replace

from wsi_pipeline.tiles.store_layout import CHUNK_TILES


@dataclass(frozen=True)
class Slides:
    """An average slide. Measured on a JPEG pyramid of 49,152 px squared at 0.25 µm/px, if not said
    otherwise.
    """

    tiles: int = 1750
    file_gb: float = 1.0  # assumed
    read_mb_per_tile: float = 0.21  # level 0 of two real slides: 0.20 and 0.22
    output_mb: float = 17.0
    store_mb_per_tile: float = 0.475  # to 0.59 (0.75 of raw) on real tissue
    decode_s_per_tile: float = 0.010  # of one core, blur and pen measures included
    keep_s_per_tile: float = 0.008  # to compress and write the pixels
    driver_s: float = 5.0  # of one core: digest, tissue, pictures, outputs


@dataclass(frozen=True)
class Site:
    """What works at night. Assumed, if not said otherwise."""

    workers: int = 100
    cores: int = 4  # of each worker
    model_tiles_s: float = 7.0  # of each worker; README: 3.5 on two cores, demonstration model
    model_takes_cores: bool = True
    drivers: int = 1
    cores_per_driver: int = 2
    slide_storage_gb_s: float = 1.25  # 10 Gbit/s, all machines together
    store_gb_s: float = 1.25
    puts_s: float = 3500.0  # what S3 grants one prefix
    gets_s: float = 5500.0
    tasks_s: float = 60.0  # measured: scheduler, two workers and client on two busy cores
    prefect_calls_s: float = 50.0  # one server
    hours: float = 8.0


@dataclass(frozen=True)
class Layout:
    """What is done where; requests are measured by tests/unit/tiles/test_store_s3.py."""

    shard_tiles: int = 64
    keep_pixels: bool = False
    on_s3: bool = True
    over_dask: bool = True  # shards over the cluster, or one whole slide to a machine
    prefect_calls_per_slide: int = 20
    puts_per_slide: int = 30  # to make the store
    gets_per_slide: int = 150  # to make it, and to read it for the outputs
    gets_per_opening: int = 25  # by each worker that takes part

    @property
    def puts_per_shard(self) -> int:
        return 6 + self.keep_pixels * -(-self.shard_tiles // CHUNK_TILES)

    @property
    def gets_per_shard(self) -> int:
        return 5 if self.keep_pixels else 3


def limits(slides: Slides, site: Site, layout: Layout) -> dict[str, float]:
    """Return the slides a night that each resource alone would allow."""
    night = site.hours * 3600
    shards = -(-slides.tiles // layout.shard_tiles)
    decode = slides.tiles * (slides.decode_s_per_tile + layout.keep_pixels * slides.keep_s_per_tile)
    model = slides.tiles / site.model_tiles_s
    machine = decode / site.cores + (model if site.model_takes_cores else 0)
    if not layout.over_dask:
        machine += slides.driver_s / site.cores
    store_gb = layout.keep_pixels * slides.tiles * slides.store_mb_per_tile / 1e3
    helpers = min(site.workers, shards) if layout.over_dask else 1
    puts = shards * layout.puts_per_shard + layout.puts_per_slide
    gets = shards * layout.gets_per_shard + layout.gets_per_slide
    found = {
        "cores of the workers": site.workers * night / machine,
        "model": site.workers * night / model,
        # The digest reads the whole file, scoring the tissue once more.
        "reading slides": night
        * site.slide_storage_gb_s
        / (slides.file_gb + slides.tiles * slides.read_mb_per_tile / 1e3),
        "Prefect": night * site.prefect_calls_s / layout.prefect_calls_per_slide,
    }
    if layout.over_dask:
        found["drivers"] = night * site.drivers * site.cores_per_driver / slides.driver_s
        found["scheduler"] = night * site.tasks_s / shards
    if layout.keep_pixels:
        found["pixels into the store"] = night * site.store_gb_s / store_gb
    if layout.on_s3:
        found["PUT requests"] = night * site.puts_s / puts
        found["GET requests"] = night * site.gets_s / (gets + helpers * layout.gets_per_opening)
    return found


def bottleneck(found: dict[str, float]) -> tuple[str, float]:
    """Return the resource that runs out first, and its slides a night."""
    return min(found.items(), key=lambda item: item[1])


GPUS = Site(model_tiles_s=1000, model_takes_cores=False, cores=8)
SCENARIOS = {
    "100 CPU workers, shards over Dask, one driver": (Site(), Layout()),
    "100 CPU workers, shards over Dask, five drivers": (Site(drivers=5), Layout()),
    "100 CPU workers, whole slides": (Site(), Layout(over_dask=False, on_s3=False)),
    "100 GPU workers, shards over Dask, one driver": (GPUS, Layout()),
    "100 GPU workers, whole slides": (GPUS, Layout(over_dask=False, on_s3=False)),
    "the same, pixels kept on one store": (GPUS, Layout(over_dask=False, keep_pixels=True)),
    "4 GPU workers, whole slides": (
        replace(GPUS, workers=4),
        Layout(over_dask=False, on_s3=False),
    ),
}


def main() -> None:
    for name, (site, layout) in SCENARIOS.items():
        found = limits(Slides(), site, layout)
        ranked = sorted(found.items(), key=lambda item: item[1])
        print(f"{name:50} " + ", ".join(f"{what} {count:,.0f}" for what, count in ranked[:4]))


if __name__ == "__main__":
    main()
