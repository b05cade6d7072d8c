from .api.result import Result as Result
from .api.result import open_result as open_result
from .api.result import open_results as open_results
from .api.run import estimate as estimate
from .api.run import load_bundle as load_bundle
from .api.run import score as score
from .errors import WsiError as WsiError
from .geometry import Box as Box
from .geometry import Mpp as Mpp
from .geometry import Size as Size
from .model.bundle import ModelBundle as ModelBundle
from .outputs.estimate import Estimate as Estimate
from .slide.slide import Slide as Slide

__version__: str
