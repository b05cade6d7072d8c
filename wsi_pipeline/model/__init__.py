"""What a network is: its architecture, its weights, and the bundle that carries both.

Of the modules here `architecture` and `bundle` alone import without torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
