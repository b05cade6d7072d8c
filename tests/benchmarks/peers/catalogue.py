"""Who takes part, and with which settings each is tried."""

from dataclasses import dataclass, replace
from typing import Any, Self


@dataclass(frozen=True)
class Setting:
    """How a peer is run.

    Attributes:
        batch: tiles to a batch.
        workers: processes that load tiles.
        reader: the library that reads the slide; empty where the peer gives no choice.
        graph: "eager", "traced", "frozen", or "speedup" for WSInfer's option of that name.

    """

    batch: int
    workers: int
    reader: str = ""
    graph: str = "traced"

    def but(self, changes: dict[str, Any]) -> Self:
        """Return this setting with something else in its place."""
        return replace(self, **changes)

    def __str__(self) -> str:
        loading = "no worker" if not self.workers else f"{self.workers} worker"
        loading += "s" * (self.workers > 1)
        return ", ".join(filter(None, [f"batch {self.batch}", loading, self.reader, self.graph]))


@dataclass(frozen=True, eq=False)
class Peer:
    """Other software.

    Attributes:
        name: what the table calls it.
        environment: the name of its requirements; None is the environment of this process.
        script: the module that runs it.
        start: the first setting tried.
        changes: what is changed next, one after the other; whatever makes it faster is kept.
        finds_tissue: whether it can choose its tiles itself.

    """

    name: str
    environment: str | None
    script: str
    start: Setting
    changes: tuple[dict[str, Any], ...]
    finds_tissue: bool = True


@dataclass(frozen=True)
class Ours:
    """One way of running ours.

    Attributes:
        name: what the table calls it.
        engine: the `engine` section of its configuration.

    """

    name: str
    engine: dict[str, Any]


PEERS = (
    Peer(
        "WSInfer 0.6.1",
        "wsinfer",
        "run_wsinfer",
        Setting(batch=1, workers=1, reader="tiffslide"),
        (
            {"batch": 8},
            {"workers": 2},
            {"reader": "openslide"},
            {"graph": "frozen"},
            {"graph": "speedup"},
        ),
    ),
    Peer(
        "TIAToolbox 2.1.3",
        "tiatoolbox",
        "run_tiatoolbox",
        Setting(batch=1, workers=1),
        ({"batch": 8}, {"workers": 2}, {"workers": 0}, {"graph": "frozen"}),
    ),
    Peer(
        "LazySlide 0.13.0",
        "lazyslide",
        "run_lazyslide",
        Setting(batch=1, workers=1, reader="tiffslide"),
        (
            {"batch": 8},
            {"workers": 2},
            {"reader": "openslide"},
            {"reader": "fastslide"},
            {"graph": "frozen"},
        ),
    ),
    Peer(
        "plain OpenSlide loop",
        None,
        "run_plain",
        Setting(batch=1, workers=0, reader="openslide", graph="eager"),
        ({"batch": 8}, {"workers": 1}),
        finds_tissue=False,
    ),
)

SCORE_ALONE = {"device": "cpu", "precision": "float32", "class_fractions": False}

OURS = (
    Ours("wsi score, torch", {**SCORE_ALONE, "runtime": "torch"}),
    Ours(
        "wsi score, torch, with classes",
        {**SCORE_ALONE, "runtime": "torch", "class_fractions": True},
    ),
    Ours("wsi score, OpenVINO", {**SCORE_ALONE, "runtime": "openvino"}),
    Ours(
        "wsi score, OpenVINO int8",
        {**SCORE_ALONE, "runtime": "openvino", "precision": "int8"},
    ),
    Ours("wsi score, all defaults", {}),
)
"""The first is what peers' tiles and scores come from and are compared with. Peers compute the
score alone in float32, so ours does too, but for those that say otherwise: users get all defaults,
which are the classes' shares, and bfloat16 where the processor multiplies that."""
