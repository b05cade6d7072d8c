"""A result in QuPath: one script that shows it over the open slide, one that sends the bed back.

Both are for QuPath's script editor. They call what QuPath offers scripts since version 0.4
(`importObjectsFromFile`, `exportObjectsToGeoJson`, `getPathClass`, `removeObjects`); QuPath itself
has never run here.
"""

from pathlib import Path

from wsi_pipeline.bed.outline import BED
from wsi_pipeline.errors import OutputError, ResultError
from wsi_pipeline.files import atomic_path
from wsi_pipeline.scoring.folder import read_summary

SHOW, SEND = "show.groovy", "send-bed.groovy"
DRAWN = "bed-drawn.geojson"
"""What the second script writes, for ``wsi heatmap --bed``."""

_SHOW = """\
// Shows the result of wsi-pipeline over this slide. Run it with the slide open.
// What an earlier run of it has shown is removed; your own objects stay.
def folder = {folder}
def ours = getAllObjects(false).findAll {{ object ->
    def name = object.getPathClass()?.getName() ?: ''
    object.getMeasurementList().getNames().contains('Cellularity') ||
        name.startsWith('Cellularity ') || name == 'Proposed tumour bed'
}}
removeObjects(ours, false)
importObjectsFromFile(folder + '/tiles.geojson')
if (new File(folder, '{bed}').exists() && getAnnotationObjects().every {{
        it.getPathClass()?.getName() != 'Tumour bed' }})
    importObjectsFromFile(folder + '/{bed}')
println 'Draw or edit the tumour bed as an annotation of class "Tumour bed", and run {send}.'
"""

_SEND = """\
// Writes the tumour bed that was outlined here, for `wsi heatmap FOLDER --bed`.
// It is every annotation of class "Tumour bed"; a proposed one has to be given that class first.
def folder = {folder}
def beds = getAnnotationObjects().findAll {{ it.getPathClass()?.getName() == 'Tumour bed' }}
if (beds.isEmpty()) {{
    println 'There is no annotation of class "Tumour bed".'
    return
}}
def file = folder + '/qupath/{drawn}'
exportObjectsToGeoJson(beds, file, 'FEATURE_COLLECTION')
println 'Now run: wsi heatmap ' + folder + ' --bed ' + file
"""


def write_qupath(folder: Path) -> Path:
    """Write both scripts into a folder ``qupath`` of a result; return the first one's path.

    Raises:
        ResultError: if there is no scored result.
        OutputError: if the folder cannot be written.

    """
    summary = read_summary(folder)
    if summary is None or summary.status != "scored":
        raise ResultError(f"{folder}: there is no finished result here. Run `wsi score` first.")
    place = groovy_string(folder.absolute().as_posix())
    scripts = {
        SHOW: _SHOW.format(folder=place, bed=BED, send=SEND),
        SEND: _SEND.format(folder=place, drawn=DRAWN),
    }
    try:
        (folder / "qupath").mkdir(exist_ok=True)
        for name, text in scripts.items():
            with atomic_path(folder / "qupath" / name) as partial:
                partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{folder}/qupath: cannot be written ({error.strerror}).") from error
    return folder / "qupath" / SHOW


def groovy_string(text: str) -> str:
    r"""Return a literal of Groovy's, of the kind that interpolates nothing.

    >>> print(groovy_string("it's $a"))
    'it\'s $a'
    """
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return "'" + escaped.replace("\n", "\\n").replace("\r", "\\r") + "'"
