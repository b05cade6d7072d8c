"""Options and arguments that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

Slides = Annotated[list[str], typer.Argument(help="Slide files, folders of them, or fsspec URLs.")]
OneSlide = Annotated[
    str, typer.Argument(help="A slide file, the folder of one (DICOM), or an fsspec URL.")
]
Out = Annotated[Path, typer.Option(help="Folder that gets one folder per slide.")]
Bundle = Annotated[
    str | None,
    typer.Option(help="A folder or hf://owner/name@revision#digest. [default: the bundled model]"),
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="YAML file; see configs/score.yaml.")
]
MppOverride = Annotated[
    float | None,
    typer.Option(help="Pixel size of level 0 in µm, where the file is wrong."),
]
AllowUpsampling = Annotated[
    bool | None,
    typer.Option("--allow-upsampling", help="Enlarge slides coarser than the model's resolution."),
]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Threads that read the slide.")]
KeepTiles = Annotated[
    bool | None, typer.Option("--keep-tiles", help="Keep the tiles' pixels in the store.")
]
Precision = Annotated[
    float | None,
    typer.Option(
        min=0.001,
        max=0.5,
        help="Score only as many tiles as tell the mean to within this, e.g. 0.02 for ± 2 %.",
    ),
]
BedFile = Annotated[
    Path | None,
    typer.Option("--bed", help="Outline of the tumour bed: GeoJSON, in level-0 pixels."),
]
