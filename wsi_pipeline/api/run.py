"""Scoring from Python, as `wsi score` does it from the command line."""

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from wsi_pipeline.api.reading import place_of
from wsi_pipeline.api.result import Result
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.files import is_url
from wsi_pipeline.memory import enough_memory
from wsi_pipeline.model.bundle import ModelBundle
from wsi_pipeline.night.config import NightConfig
from wsi_pipeline.outputs.estimate import Estimate
from wsi_pipeline.outputs.summary import SlideSummary
from wsi_pipeline.scoring.estimate import estimate_slide
from wsi_pipeline.scoring.filing import file_slide
from wsi_pipeline.scoring.pipeline import score_slide
from wsi_pipeline.scoring.scorer import start_engine
from wsi_pipeline.scoring.slide_arguments import one_slide
from wsi_pipeline.shown import shown

Progress = Callable[[int, int], None]
Found = TypeVar("Found")


def score(
    slide: str | Path,
    out: str | Path,
    *,
    bundle: str | Path | ModelBundle | None = None,
    config: str | Path | None = None,
    mpp: float | None = None,
    allow_upsampling: bool | None = None,
    device: str | None = None,
    workers: int | None = None,
    keep_tiles: bool | None = None,
    progress: Progress | None = None,
) -> Result:
    """Score one slide into a folder of its own below `out`, as `wsi score` does.

    What is finished with the same bytes, model and settings is opened and not scored again, and
    what was interrupted is gone on with. The options mean what they mean for the command.

    Args:
        slide: a slide file, the folder of one (DICOM), or an fsspec URL.
        out: the folder that gets one folder per slide.
        bundle: a model bundle, as `load_bundle` takes or gives it; None is the bundled one.
        config: a YAML file, such as `configs/score.yaml`.
        mpp: pixel size of level 0 in µm, where the file is wrong.
        allow_upsampling: whether a slide coarser than the model's resolution may be enlarged.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        workers: threads that read the slide.
        keep_tiles: whether the tiles' pixels stay in the store.
        progress: called with the tiles done and the tiles in all; None shows a bar on stderr.

    Returns:
        the result. Its `summary.status` is "refused" where there is no tissue, or too little of it
        could be read: then it has a reason and no figure.

    Raises:
        WsiError: if the slide cannot be scored at all; the message says what to do.

    """
    settings = _settings(config, mpp, allow_upsampling, device, workers, keep_tiles)
    return Result(*_run(slide, out, bundle, settings, progress, score_slide))


def estimate(
    slide: str | Path,
    out: str | Path,
    precision: float,
    *,
    bundle: str | Path | ModelBundle | None = None,
    config: str | Path | None = None,
    mpp: float | None = None,
    allow_upsampling: bool | None = None,
    device: str | None = None,
    workers: int | None = None,
    bed: str | Path | None = None,
    progress: Progress | None = None,
) -> Estimate | Result:
    """Score as many tiles of a slide as tell its mean to a precision, as `wsi score` does.

    `score` with the same arguments goes on from there to the result.

    Args:
        slide: as for `score`, and so are all others but for:
        out: the folder that gets one folder per slide.
        precision: half the width that the mean's 90 % interval may have, such as 0.02.
        bundle: the model.
        config: a YAML file.
        mpp: pixel size of level 0 in µm.
        allow_upsampling: whether a slide coarser than the model's resolution may be enlarged.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        workers: threads that read the slide.
        bed: the outline of a tumour bed, GeoJSON, whose mean is meant then.
        progress: called with the tiles done and the tiles drawn.

    Returns:
        the estimate, with `mean`, `low` and `high`; the result itself, if the slide is scored
        already or the precision takes all of its tiles.

    Raises:
        WsiError: if the slide cannot be scored at all; the message says what to do.

    """
    if not 0 < precision < 1:
        raise ConfigError(
            f"A precision lies between 0 and 1, such as 0.02, and is not {precision}."
        )
    settings = _settings(config, mpp, allow_upsampling, device, workers, None)
    outline = None if bed is None else place_of(bed)
    score_one = partial(estimate_slide, precision=precision, bed=outline)
    own, found = _run(slide, out, bundle, settings, progress, score_one)
    return Result(own, found) if isinstance(found, SlideSummary) else found


def _settings(
    config: str | Path | None,
    mpp: float | None,
    allow_upsampling: bool | None,  # noqa: FBT001
    device: str | None,
    workers: int | None,
    keep_tiles: bool | None,  # noqa: FBT001
) -> NightConfig:
    try:
        return NightConfig.resolve(
            None if config is None else place_of(config),
            mpp=mpp,
            allow_upsampling=allow_upsampling,
            device=device,
            workers=workers,
            keep_tiles=keep_tiles,
        )
    except OSError as error:
        raise ConfigError(
            f"{config}: the configuration cannot be read ({error.strerror}). Name a YAML file."
        ) from error


def _run(
    slide: str | Path,
    out: str | Path,
    bundle: str | Path | ModelBundle | None,
    settings: NightConfig,
    progress: Progress | None,
    score_one: Callable[..., Found],
) -> tuple[Path, Found]:
    """Start the engine and give one slide to what scores it; return the slide's own folder too."""
    location = str(slide) if is_url(str(slide)) else str(place_of(slide))
    folder = place_of(out).absolute()
    model = bundle if isinstance(bundle, ModelBundle) else load_bundle(bundle)
    if model.card.demonstration:
        warnings.warn(
            f"{model.card.name} {model.card.version} is a demonstration model: its scores show "
            f"that the pipeline works, and say nothing about a patient. Name another `bundle`.",
            stacklevel=3,
        )
    file = file_slide(one_slide(location), settings.names)
    with enough_memory("Loading the model"):
        engine = start_engine(model, settings)
    with _bar(file.name) if progress is None else nullcontext(progress) as advance:
        return folder / file.folder, score_one(file, folder, engine, settings, progress=advance)


def load_bundle(location: str | Path | None = None) -> ModelBundle:
    """Load a model bundle: its card, its weights and its digest.

    Args:
        location: a folder, or ``hf://owner/name`` or ``hf://owner/name@revision``; None is the
            one that comes with the package.

    Raises:
        BundleError: if it is missing, incomplete or damaged.

    """
    if location is None or is_url(str(location)):
        return ModelBundle.load(location)
    return ModelBundle.load(place_of(location))


@contextmanager
def _bar(name: str) -> Iterator[Progress]:
    """Show a bar on stderr; yield what moves it."""
    with tqdm(desc=shown(name), unit="tile", file=sys.stderr) as bar:

        def advance(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield advance
