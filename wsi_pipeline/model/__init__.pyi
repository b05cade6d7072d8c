from .architecture import CLASSES as CLASSES
from .architecture import Architecture as Architecture
from .bundle import DEMO_BUNDLE as DEMO_BUNDLE
from .bundle import ModelBundle as ModelBundle
from .bundle import ModelCard as ModelCard
