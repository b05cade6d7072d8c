"""A result in QuPath: scripts that make a project of it, show it, and send the bed back.

They call what QuPath has since version 0.4, as its source says: for the open slide
`importObjectsFromFile`, `exportObjectsToGeoJson`, `removeObjects`; for a project
`Projects.createProject`, `ProjectIO.loadProject`, `ImageServers.buildServer`, `Project.addImage`,
`ProjectImageEntry.readImageData` and `saveImageData`, `UriResource.getURIs`, `PathIO.readObjects`,
`PathObjectHierarchy.addObjects`. QuPath itself has never run here.
"""

from pathlib import Path

from wsi_pipeline.bed.outline import BED
from wsi_pipeline.errors import OutputError
from wsi_pipeline.export.finished import scored_summary
from wsi_pipeline.files import atomic_path

PROJECT, SHOW, SEND = "make-project.groovy", "show.groovy", "send-bed.groovy"
DRAWN = "bed-drawn.geojson"
"""What the second script writes, for ``wsi heatmap --bed``."""

_PROJECT = """\
// Makes a QuPath project of the slide with the result of wsi-pipeline in it: qupath/project beside
// the result. From a terminal: QuPath script make-project.groovy{arguments}
// Run again, it shows the result as it is by then; the slide is added once, your own objects stay.
import java.awt.image.BufferedImage
import qupath.lib.images.ImageData
import qupath.lib.images.servers.ImageServers
import qupath.lib.io.PathIO
import qupath.lib.projects.ProjectIO
import qupath.lib.projects.Projects

def folder = {folder}
def slide = {slide}
if (slide == null || !new File(slide).exists()) {{
    println 'There is no slide ' + slide + '. Run: QuPath script make-project.groovy --args SLIDE'
    return
}}
def place = new File(folder, 'qupath/project')
place.mkdirs()
def file = new File(place, 'project' + ProjectIO.getProjectExtension(true))
def project = file.exists() ?
    ProjectIO.loadProject(file, BufferedImage.class) :
    Projects.createProject(file, BufferedImage.class)
def server = ImageServers.buildServer(new File(slide).toURI())
def entry = project.getImageList().find {{ it.getURIs().containsAll(server.getURIs()) }}
if (entry == null) {{
    entry = project.addImage(server.getBuilder())
    entry.setImageName(new File(slide).getName())
}}
def imageData = entry.readImageData()
imageData.setImageType(ImageData.ImageType.BRIGHTFIELD_H_E)
def hierarchy = imageData.getHierarchy()
def ours = hierarchy.getAllObjects(false).findAll {{ object ->
    def name = object.getPathClass()?.getName() ?: ''
    object.getMeasurementList().getNames().contains('Cellularity') ||
        name.startsWith('Cellularity ') || name == 'Proposed tumour bed'
}}
hierarchy.removeObjects(ours, false)
hierarchy.addObjects(PathIO.readObjects(new File(folder, 'tiles.geojson').toPath()))
def bed = new File(folder, '{bed}')
if (bed.exists() && hierarchy.getAnnotationObjects().every {{
        it.getPathClass()?.getName() != 'Tumour bed' }})
    hierarchy.addObjects(PathIO.readObjects(bed.toPath()))
entry.saveImageData(imageData)
project.syncChanges()
println 'Open ' + file + ' in QuPath.'
"""

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


def write_qupath(folder: Path, slide: str | None = None) -> list[Path]:
    """Write the scripts into a folder ``qupath`` of a result; return their paths.

    Args:
        folder: the result's.
        slide: the slide's file, for the project; without it the script has to be told.

    Raises:
        ResultError: if there is no scored result.
        OutputError: if the folder cannot be written.

    """
    scored_summary(folder)
    place = groovy_string(folder.absolute().as_posix())
    own_slide = None if slide is None else groovy_string(Path(slide).absolute().as_posix())
    scripts = {
        PROJECT: _PROJECT.format(
            folder=place,
            slide=own_slide or "args.size() > 0 ? args[0] : null",
            arguments="" if own_slide else " --args SLIDE",
            bed=BED,
        ),
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
    return [folder / "qupath" / name for name in scripts]


def groovy_string(text: str) -> str:
    r"""Return a literal of Groovy's, of the kind that interpolates nothing.

    >>> print(groovy_string("it's $a"))
    'it\'s $a'
    """
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return "'" + escaped.replace("\n", "\\n").replace("\r", "\\r") + "'"
