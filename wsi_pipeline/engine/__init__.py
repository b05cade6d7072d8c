"""How a bundle is run: the device, the precision, and the library behind them.

torch is the reference and the engine of GPUs; OpenVINO is that of CPUs and does without torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
