"""The errors that a user can meet. Every message names the file, the cause and the remedy."""


class WsiError(Exception):
    """Root of all errors that this package raises on purpose."""


class SlideError(WsiError):
    """The file cannot be read as a slide: missing, empty, truncated, damaged, or not a slide."""


class SlideUnavailableError(SlideError):
    """The file cannot be reached now: a network drive or an object store is away. Try again."""


class SlideChangedError(SlideUnavailableError):
    """The file has changed since it was read for its digest: no figure would be of one slide."""


class ColourError(SlideError):
    """Its pixels are not those of a brightfield slide, or not in colours that are understood."""


class MppError(WsiError):
    """The pixel size is missing, implausible, contradictory, or too coarse for the model."""


class TissueError(WsiError):
    """No tissue worth scoring was found on the slide."""


class CoverageError(WsiError):
    """Too little of the tissue could be read or scored for a slide-level figure."""


class StoreError(WsiError):
    """A tile store is damaged, or belongs to another slide or configuration."""


class DamagedStoreError(StoreError):
    """Files of a tile store are missing, damaged, or of another version of this program."""


class ResultError(WsiError):
    """A folder holds no finished result, or one that is damaged or of another version."""


class InUseError(WsiError):
    """Another run is at work on the same slide, with the same output folder."""


class ClusterError(WsiError):
    """The Dask cluster does not answer, has no workers, or its machines are not fit for the run."""


class BundleError(WsiError):
    """A model bundle is missing, incomplete, or does not fit what is asked of it."""


class ModelUnavailableError(WsiError):
    """No process can load the model now; nothing is said of the slide that waits for it."""


class ConfigError(WsiError):
    """A configuration file or option holds something that cannot be used."""


class ShortOfMemoryError(WsiError):
    """The machine has too little memory for what was asked of it."""


class OutputError(WsiError):
    """The output folder cannot be written: full, read-only, or gone."""


class TrainingError(WsiError):
    """A training cannot go on: its loss is no number any more."""
