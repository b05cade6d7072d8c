"""Train as Prefect flow runs: stage 1, stage 2, or both and put the result in use if it is better.

The first two are the commands ``python -m training.seg`` and ``python -m training.reg`` as flows:
the same parameters, the same folders. Neither has tasks: a run's checkpoint is what resumes after a
kill, and the same parameters again go on from there. One process trains; several GPUs are what the
commands under ``torchrun`` are for. How a run ends:

========= ========= ==============================================================================
type      name
========= ========= ==============================================================================
COMPLETED Completed the run has come to its last epoch
COMPLETED Promoted  the new bundle is in use
COMPLETED Kept      what was in use stays so, for the reason in the message
FAILED    Failed    the message names the file, the cause and the remedy
========= ========= ==============================================================================
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import TypeVar, get_args

from prefect import State, flow
from prefect.artifacts import create_markdown_artifact
from prefect.states import Completed, Failed

import wsi_pipeline
from flows.progress import PROGRESS_EVERY_S, ProgressArtifact
from flows.report import artifact_key
from flows.run_log import run_log
from training.data import under
from training.data.generated import Part
from training.data.picture import Pictures
from training.promote import Decision, HeldOut, bundle_in_use, promote, refuse_known
from training.record import METRICS_NAME, Metrics
from training.reg import BUNDLE_NAME, RegConfig, train_regression
from training.run import run_folder
from training.seg import SegConfig, train_segmentation
from wsi_pipeline.errors import ConfigError, WsiError
from wsi_pipeline.model.bundle import ModelBundle
from wsi_pipeline.validation import load_yaml

WithData = TypeVar("WithData", SegConfig, RegConfig, HeldOut)

_LOWER_IS_BETTER = {"loss", "l1"}


@flow(
    name="train-seg",
    flow_run_name="{config}",
    version=wsi_pipeline.__version__,
    persist_result=False,
)
def train_seg(config: Path, data: Path = Path(), run: Path | None = None) -> State[Path]:
    """Train stage 1, the segmentation network.

    A run that was killed goes on from its last checkpoint when the same parameters are run again.
    Paths are seen from where the flow is served.

    Args:
        config: YAML file; see configs/seg-demo.yaml.
        data: Folder that the data's root is relative to.
        run: Folder of the run; runs/<name of the config> if left out.

    """
    folder = run_folder(run, config).absolute()
    with run_log():
        try:
            settings = _settings(config, SegConfig, data)
            with training_progress(folder, settings.fit.epochs):
                train_segmentation(settings, folder)
        except WsiError as error:
            return Failed(message=str(error), data=error)
    return _publish(folder)


@flow(
    name="train-reg",
    flow_run_name="{config}",
    version=wsi_pipeline.__version__,
    persist_result=False,
)
def train_reg(
    config: Path, data: Path = Path(), run: Path | None = None, init: str | None = None
) -> State[Path]:
    """Train stage 2, the whole network, and export its bundle to the run's folder.

    A run that was killed goes on from its last checkpoint when the same parameters are run again.
    Paths are seen from where the flow is served.

    Args:
        config: YAML file; see configs/reg-demo.yaml.
        data: Folder that the data's root is relative to.
        run: Folder of the run; runs/<name of the config> if left out.
        init: Folder of a run to start from, usually of stage 1, or a bundle.

    """
    folder = run_folder(run, config).absolute()
    with run_log():
        try:
            settings = _settings(config, RegConfig, data)
            with training_progress(folder, settings.fit.epochs):
                bundle = train_regression(settings, folder, init)
        except WsiError as error:
            return Failed(message=str(error), data=error)
    return _publish(folder, bundle)


@flow(
    name="train-and-promote",
    flow_run_name="{config}",
    version=wsi_pipeline.__version__,
    persist_result=False,
)
def train_and_promote(
    config: Path,
    held_out: Path,
    seg: Path | None = None,
    init: str | None = None,
    data: Path = Path(),
    run: Path | None = None,
    models: Path = Path("models"),
) -> State[Path]:
    """Train both stages, and put the bundle in use if it is better than the one in use.

    Better means a lower L1 on held-out pictures, beyond chance, without a lower PK. Where no bundle
    is in use yet, the new one must be better than the best constant score. What was in use is kept:
    see training/promote.py for how to go back to it.

    Args:
        config: YAML file of stage 2; see configs/reg-demo.yaml.
        held_out: YAML file that says by what pictures to compare: `data` as in the other files,
            `part` of it (for BreastPathQ test), and `window` to cut unjudged ones into squares.
            Pictures that training learns from or is validated by are refused.
        seg: YAML file of stage 1; left out, stage 2 alone is trained.
        init: Folder of a run, or a bundle, for stage 2 to start from, in place of `seg`.
        data: Folder that the roots of all data are relative to.
        run: Folder that gets the runs, as `seg` and `reg`; runs/<name of the config> if left out.
        models: Folder of models, with a link `current` to the bundle in use.

    """
    folder = run_folder(run, config).absolute()
    with run_log():
        try:
            pictures = _unseen(held_out, config, seg, data)
            bundle_in_use(models)  # what is wrong with it shows now, not after the training
            if seg is not None and init is not None:
                raise ConfigError(
                    f"{init} would be trained anew from {seg}; give either `seg` or `init`."
                )
        except WsiError as error:
            return Failed(message=str(error), data=error)
    if seg is not None:
        init = str(folder / "seg")
        trained = train_seg(seg, data, folder / "seg", return_state=True)
        if not trained.is_completed():
            return Failed(message=trained.message)
    trained = train_reg(config, data, folder / "reg", init, return_state=True)
    if not trained.is_completed():
        return Failed(message=trained.message)
    with run_log():
        try:
            bundle = ModelBundle.load(folder / "reg" / BUNDLE_NAME)
            decision = promote(bundle, pictures, models)
        except WsiError as error:
            return Failed(message=str(error), data=error)
    outcome = "Promoted" if decision.promoted else "Kept"
    create_markdown_artifact(
        decision_page(decision, models.absolute()),
        key=artifact_key("promotion", config.stem),
        description=f"{outcome}: {decision.reason}",
    )
    return Completed(name=outcome, message=decision.reason, data=models.absolute())


def _unseen(held_out: Path, config: Path, seg: Path | None, data: Path) -> Pictures:
    """Return the held-out pictures, having seen to it that training does not see them."""
    chosen = _settings(held_out, HeldOut, data)
    parts: tuple[Part, ...] = get_args(Part)
    cellularity = _settings(config, RegConfig, data).data.cellularity
    known = [cellularity(part) for part in parts]
    if seg is not None:
        nuclei = _settings(seg, SegConfig, data).data.nuclei
        known += [nuclei(part) for part in parts]
    refuse_known(chosen.whole(), known)
    return chosen.pictures()


def _settings(path: Path, kind: type[WithData], data: Path) -> WithData:
    config = load_yaml(path, kind)
    return config.model_copy(update={"data": under(config.data, data)})


def _publish(folder: Path, bundle: ModelBundle | None = None) -> State[Path]:
    """Make the page of a run that has come to its end."""
    epochs = recorded(folder)
    done = headline(epochs)
    create_markdown_artifact(
        run_page(folder, epochs, bundle),
        key=artifact_key("training", folder.name),
        description=done,
    )
    return Completed(message=done, data=folder)


def recorded(run: Path) -> list[Metrics]:
    """Return what a run has recorded of its epochs so far; a line not yet whole is left out."""
    path = run / METRICS_NAME
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def latest(epochs: Sequence[Metrics]) -> Metrics:
    """Return the last known value of each metric: not every epoch is validated."""
    return {name: value for epoch in epochs for name, value in epoch.items()}


def best(epochs: Sequence[Metrics], name: str) -> tuple[float, int]:
    """Return a metric's best value and the epoch that reached it first."""
    sign = 1 if name in _LOWER_IS_BETTER else -1
    epoch = min((e for e in epochs if name in e), key=lambda e: sign * e[name])
    return epoch[name], int(epoch["epoch"])


def headline(epochs: Sequence[Metrics]) -> str:
    """Return where a run is, in one line."""
    if not epochs:
        return "No epoch is done yet."
    figures = latest(epochs)
    words = ", ".join(f"{name} {value:.4g}" for name, value in _judged(figures).items())
    return f"Epoch {figures['epoch']:.0f}: {words}"


def run_page(folder: Path, epochs: Sequence[Metrics], bundle: ModelBundle | None) -> str:
    """Return a run's figures as a page, with its bundle if it has exported one."""
    lines = [f"# {folder.name}", "", f"> {headline(epochs)}", ""]
    lines += ["| Metric | Last | Best | in epoch |", "| --- | --- | --- | --- |"]
    for name, value in _judged(latest(epochs)).items():
        top, epoch = best(epochs, name)
        lines.append(f"| {name} | {value:.4f} | {top:.4f} | {epoch} |")
    lines += ["", f"The run is in [{folder}]({folder.as_uri()})."]
    if bundle is not None:
        path = folder / BUNDLE_NAME
        card = bundle.card
        figures = ", ".join(f"{name} {value:.4f}" for name, value in card.metrics.items())
        exported = (
            f"Its last weights are the bundle {card.name} {card.version} in [{path}]"
            f"({path.as_uri()}), digest `{bundle.digest}`; as stored: {figures}."
        )
        lines += ["", exported]
    return "\n".join([*lines, "", "Research use only; not a medical device."])


def decision_page(decision: Decision, models: Path) -> str:
    """Return a decision and what it rests on as a page."""
    candidate, in_use = decision.candidate, decision.in_use
    pictures, groups = len(candidate.names), len(set(candidate.groups))
    lines = [
        f"# {candidate.model}",
        "",
        f"> {'Promoted' if decision.promoted else 'Kept what was in use'}: {decision.reason}",
        "",
        f"On {pictures:,} held-out pictures of {groups:,} groups, with 95 % intervals over groups:",
        "",
        f"| Figure | {candidate.model} | {in_use.model if in_use else 'nothing'}, in use |",
        "| --- | --- | --- |",
    ]
    for name, figure in candidate.figures.items():
        lines.append(f"| {name} | {figure} | {in_use.figures[name] if in_use else ''} |")
    lines += [
        f"| digest | `{candidate.digest}` | {f'`{in_use.digest}`' if in_use else ''} |",
        "",
        f"The models are in [{models}]({models.as_uri()}).",
        "",
        "Research use only; not a medical device.",
    ]
    return "\n".join(lines)


def _judged(figures: Metrics) -> Metrics:
    return {k: v for k, v in figures.items() if k not in {"epoch", "learning_rate"}}


@contextmanager
def training_progress(run: Path, epochs: int) -> Iterator[None]:
    """Follow a run's record in a progress artifact.

    Training knows nothing of Prefect, so its record is read from a thread.

    Args:
        run: its folder.
        epochs: how many it will record.

    """
    ended = Event()

    def show() -> None:
        done = recorded(run)
        artifact.show(100 * min(1, len(done) / epochs), headline(done))

    def follow() -> None:
        while not ended.wait(PROGRESS_EVERY_S):
            show()

    with ProgressArtifact(run.name, f"Training {run.name}") as artifact:
        follower = Thread(target=follow, daemon=True)
        follower.start()
        try:
            yield
        finally:
            ended.set()
            follower.join()
            show()
