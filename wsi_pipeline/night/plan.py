"""What a night is to do: which slides of an inbox are scored, under what names, and which are not.

A slide is known by its bytes: what has been scored with this bundle and configuration is left
alone whatever it is called, and a slide that failed for good is tried again only when it, the
bundle or the configuration has changed, or on request.
"""

import logging
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from wsi_pipeline.cluster.driver import Cluster
from wsi_pipeline.digests import digest_of
from wsi_pipeline.engine.execution import execution_of
from wsi_pipeline.errors import BundleError, ConfigError, OutputError, SlideError, WsiError
from wsi_pipeline.facts import TilingFacts
from wsi_pipeline.files import atomic_path, read_regular
from wsi_pipeline.model.bundle import BUNDLED_MODEL, ModelBundle
from wsi_pipeline.night.config import NightConfig
from wsi_pipeline.night.crew import Crew
from wsi_pipeline.night.digest_cache import DigestCache
from wsi_pipeline.night.inbox import Inbox, InboxSlide, find_slides
from wsi_pipeline.night.inbox_table import SlideRow, find_table
from wsi_pipeline.night.outcome import Outcome, left, of_error
from wsi_pipeline.night.patience import patiently
from wsi_pipeline.night.worker_protocol import Job, Setup
from wsi_pipeline.outputs.provenance import Settings
from wsi_pipeline.outputs.summary import SlideSummary
from wsi_pipeline.scoring.filing import UNREAD, Names, pseudonym, slide_folder
from wsi_pipeline.scoring.folder import OUTCOME, read_summary
from wsi_pipeline.scoring.verify import finished
from wsi_pipeline.slide.access import footprint, unavailable
from wsi_pipeline.slide.files import SlideFile, file_name
from wsi_pipeline.tiles.store import TileStore

log = logging.getLogger(__name__)

DIGESTS = ".digests"

DIGEST_IN_NAME = 8

Step = tuple[str, "Job | Outcome"]
"""A slide by its location, and what is to be done with it, or how it has ended already."""


class Remembered(BaseModel):
    """A slide that gave no figure, and how it was tried."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tried: str
    """See `tried`."""
    outcome: Outcome


@dataclass(frozen=True)
class Cohort:
    """What a night starts from.

    Attributes:
        inbox: a folder or fsspec URL.
        out: the folder that gets one folder per slide.
        bundle: the model, as a path that does not change during the night.
        config: everything else.
        settings: what of the configuration decides a slide's result.
        again: try slides again that have failed for good.

    """

    inbox: str
    out: Path
    bundle: ModelBundle
    config: NightConfig
    settings: Settings
    again: bool = False

    @classmethod
    def prepare(
        cls, inbox: str, out: Path, bundle: str | None, config: NightConfig, *, again: bool = False
    ) -> "Cohort":
        """Load what can be loaded before the first slide.

        Raises:
            WsiError: if the bundle, the device, the cluster or the output folder cannot be used.

        """
        out = out.absolute()
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"{out}: results cannot be written there ({error.strerror}). Clear the way, or "
                f"choose another --out."
            ) from error
        model = ModelBundle.load(bundle)
        if config.estimate_first is not None and config.cluster is not None:
            raise ConfigError(
                "A cluster scores whole slides: leave `cluster` or `estimate_first` (--precision) "
                "out of the configuration."
            )
        _require_machine(model, config)
        return cls(inbox, out, model, config, config.settings(model), again)

    def crew(self) -> Crew:
        """Return the workers that score this night's slides."""
        model = self.bundle
        if model.folder is None:
            raise BundleError(f"{model.source} lies in no folder that processes can load it from.")
        elsewhere = model.source.startswith("hf:") or model.source == str(BUNDLED_MODEL)
        setup = Setup(
            out=self.out,
            bundle=model.folder,
            source=model.source if elsewhere else str(model.folder),
            digest=model.digest,
            config=self.config,
        )
        return Crew(setup, self.config.crew)

    def look(self) -> Inbox:
        """Look into the inbox.

        Raises:
            ConfigError: if there is none.

        """
        shown = self.config.names == "file"
        inbox = find_slides(self.inbox, self.config.inbox, self.out, show_names=shown)
        return replace(inbox, table=find_table(self.inbox))

    def of_slide(self, said: SlideRow) -> "Cohort":
        """Return what holds for a slide of which the inbox's table says this."""
        config = self.config.of_slide(said.mpp, said.allow_upsampling)
        return replace(
            self,
            config=config,
            settings=self.settings.model_copy(update={"mpp": config.slide.mpp}),
        )


def plan(cohort: Cohort, inbox: Inbox) -> Iterator[Step]:
    """Yield each slide of an inbox, in the order of their names: to be scored, or left alone.

    A slide is read for its digest when it is its turn. Whatever is wrong with it, or with what lies
    where its results belong, is its outcome.
    """
    names = cohort.config.names
    log.info("%d slides in the inbox, %d still copied", len(inbox.slides), len(inbox.copying))
    for slide in inbox.copying:
        yield slide.location, left(unread(slide, names), "copying", slide.unsettled)
    said, nobodys = inbox.table.assign([slide.name for slide in (*inbox.slides, *inbox.copying)])
    for line in nobodys:
        log.warning("%s, line %d: no slide of this name is in the inbox.", inbox.table.name, line)
    taken: dict[str, str] = {}
    stall_s = cohort.config.crew.stall_s
    cache = _digests(cohort)
    for slide in inbox.slides:
        its = inbox.table.fault or said.get(slide.name, SlideRow())
        if isinstance(its, str):
            yield slide.location, of_error(unread(slide, names), ConfigError(its))
            continue
        if names == "digest":
            its = replace(its, labels={})  # they may be a patient's
        try:
            step = _step(cohort, slide, its, _digest(cache, slide, stall_s), taken)
        # Names, old results and attributes of stores can be wrong in more ways than one.
        except Exception as error:  # noqa: BLE001
            step = of_error(unread(slide, names), error)
        yield slide.location, labelled(step, its) if isinstance(step, Outcome) else step


def labelled(outcome: Outcome, said: SlideRow) -> Outcome:
    """Add what the inbox's table says of a slide, for the night's own table."""
    return outcome.model_copy(update={"labels": dict(said.labels)})


def _digest(cache: DigestCache, slide: InboxSlide, stall_s: float) -> str:
    try:
        return patiently(partial(cache.digest, slide), stall_s)
    except TimeoutError as error:
        raise unavailable(slide.location, error) from error
    except OSError as error:
        for location in slide.files:
            footprint(location)  # says what is wrong with it, and whether it is away
        where = slide.location if error.filename is None else error.filename
        raise SlideError(f"{where}: cannot be read ({error.strerror}). Copy it again.") from error


def _step(
    cohort: Cohort, slide: InboxSlide, said: SlideRow, digest: str, taken: dict[str, str]
) -> Job | Outcome:
    try:
        return _job(cohort, slide, said, digest, taken)
    except OSError as error:
        raise OutputError(
            f"{error.filename or cohort.out}: what is known of the slide cannot be read "
            f"({error.strerror}). Clear the way, or choose another --out."
        ) from error


def _job(
    cohort: Cohort, slide: InboxSlide, said: SlideRow, digest: str, taken: dict[str, str]
) -> Job | Outcome:
    same = next((folder for folder, owner in taken.items() if owner == digest), None)
    if same is not None:
        copy = replace(_named(cohort, slide, digest), folder=same)
        return left(copy, "duplicate", f"It is the same slide as the one in {same}.")
    file = _filed(cohort, slide, digest, taken)
    taken[_key(file.folder)] = digest
    its_own = cohort.of_slide(said)
    done = known(its_own, file)
    if done is None:
        return Job(file, said)
    remember(its_own, done)  # the night that scored it may have been killed before that
    return done


def known(cohort: Cohort, slide: SlideFile) -> Outcome | None:
    """Return how a slide ended on an earlier night, if another try would end alike."""
    folder = cohort.out / slide.folder
    summary = finished(folder, slide.digest or "", cohort.settings)
    if summary is not None:
        return left(slide, "done", _as_before(summary), summary)
    before = recall(folder)
    if (
        before is None
        or cohort.again
        or before.outcome.retry != "never"
        or (before.outcome.slide_digest, before.tried) != (slide.digest, tried(cohort))
    ):
        return None
    return left(slide, "failed before", f"As on an earlier night: {before.outcome.reason}")


def remember(cohort: Cohort, outcome: Outcome) -> None:
    """Note beside a slide's outputs why there are none; what is not noted is tried again."""
    path = cohort.out / outcome.folder / OUTCOME
    try:
        # A refusal that has left an older figure in its place is in no summary.
        if outcome.summary is not None and outcome.summary == read_summary(path.parent):
            path.unlink(missing_ok=True)
            return
        if outcome.status == "estimated":
            path.unlink(missing_ok=True)  # its estimate says more
            return
        if outcome.status == "left":
            return  # an older note stays, and the folder may be another run's now
        path.parent.mkdir(exist_ok=True)
        if outcome.folder and path.parent.is_symlink():
            log.warning("%s: not written, since the folder is a link.", path)
            return
        note = Remembered(tried=tried(cohort), outcome=outcome)
        with atomic_path(path) as partial:
            partial.write_text(note.model_dump_json(indent=1), encoding="utf-8")
    except OSError as error:
        log.warning("%s: could not be written (%s).", path, error.strerror)


def recall(folder: Path) -> Remembered | None:
    """Return what was noted of a slide that gave no figure."""
    try:
        return Remembered.model_validate_json(read_regular(folder / OUTCOME))
    except (FileNotFoundError, ValidationError):
        return None


def tried(cohort: Cohort) -> str:
    """Return the digest of all that can keep a slide from giving a figure, besides its bytes."""
    config = cohort.config
    return digest_of(
        {
            "settings": cohort.settings.digest,
            "backend": config.slide.backend,
            "allow_upsampling": config.grid.allow_upsampling,
        }
    )


def _require_machine(bundle: ModelBundle, config: NightConfig) -> None:
    """Raise if the device or the cluster cannot run the model."""
    if config.cluster is None:
        for device in config.crew.devices or (config.engine.device,):
            execution_of(bundle, config.engine.model_copy(update={"device": device}))
    else:
        Cluster(bundle, config.engine, config.cluster).close()


def _as_before(summary: SlideSummary) -> str:
    if summary.status == "refused":
        return f"Refused before: {summary.reason}"
    return "Scored before with this bundle and configuration."


def _digests(cohort: Cohort) -> DigestCache:
    if cohort.config.digest_cache is not None:
        return DigestCache(cohort.config.digest_cache)
    # It holds the files' names: not among outputs that must not.
    return DigestCache(cohort.out / DIGESTS if cohort.config.names == "file" else None)


def unread(slide: InboxSlide, names: Names) -> SlideFile:
    """File a slide whose bytes are not known."""
    if names == "digest":
        return SlideFile(slide.location, slide.files, "", UNREAD)
    try:
        folder = slide_folder(slide.location, Path()).name
    except WsiError:
        folder = ""
    return SlideFile(slide.location, slide.files, folder, file_name(slide.location))


def _named(cohort: Cohort, slide: InboxSlide, digest: str) -> SlideFile:
    """Name a slide whose bytes are known; its folder is its own, if no other slide has that."""
    by_file = cohort.config.names == "file"
    return SlideFile(
        location=slide.location,
        parts=slide.files,
        folder=slide_folder(slide.location, Path()).name if by_file else pseudonym(digest),
        name=file_name(slide.location) if by_file else pseudonym(digest),
        digest=digest,
        fingerprint=slide.fingerprint,
    )


def _filed(cohort: Cohort, slide: InboxSlide, digest: str, taken: dict[str, str]) -> SlideFile:
    """Find the folder of a slide: its own from before, or one that no other slide has.

    Two slides of one name, in two folders or on two nights, must not overwrite each other.
    """
    file = _named(cohort, slide, digest)
    if cohort.config.names == "digest":
        return file
    candidates = (file.folder, f"{file.folder}-{digest[:DIGEST_IN_NAME]}")
    owners = [taken.get(_key(name)) or _owner(cohort, name) for name in candidates]
    if digest in owners:
        folder = candidates[owners.index(digest)]
    else:
        folder = candidates[owners.index(None)] if None in owners else candidates[-1]
    return replace(file, folder=folder)


def _owner(cohort: Cohort, name: str) -> str | None:
    """Return the digest of the slide that a folder belongs to; None if it is nobody's."""
    folder = cohort.out / name
    summary = read_summary(folder)
    if summary is not None:
        return summary.provenance.slide.digest
    noted = recall(folder)
    if noted is not None:
        return noted.outcome.slide_digest
    store = cohort.config.store.path(folder)
    if isinstance(store, Path) and not (store / "zarr.json").is_file():
        return None  # a pipe is not to be opened
    try:
        return TilingFacts.of(TileStore(store)).slide_digest
    # A store can be damaged in more ways than one. Whoever scores the slide says so.
    except Exception as error:  # noqa: BLE001
        log.debug("%s: whose it is cannot be told (%s)", store, error)
        return None


def _key(folder: str) -> str:
    """Names that some file systems take for one."""
    return unicodedata.normalize("NFC", folder).casefold()
