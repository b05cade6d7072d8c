from .architecture import CLASSES as CLASSES
from .architecture import Architecture as Architecture
from .bundle import BUNDLED_MODEL as BUNDLED_MODEL
from .bundle import ModelBundle as ModelBundle
from .bundle import ModelCard as ModelCard
