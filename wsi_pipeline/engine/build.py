"""The choice of what runs a model here."""

from wsi_pipeline.engine.base import BatchEngine, Engine
from wsi_pipeline.engine.execution import EngineConfig, machine_execution
from wsi_pipeline.memory import enough_memory
from wsi_pipeline.model.bundle import ModelBundle
from wsi_pipeline.model.torch_extra import torch_at_hand


def build_engine(bundle: ModelBundle, config: EngineConfig) -> Engine:
    """Make a model ready on this machine.

    Raises:
        ConfigError: if it cannot be run here as configured.
        BundleError: if the bundle does not hold its network's weights, or they do not give scores.
        ShortOfMemoryError: if a batch takes more memory than there is.

    """
    # Imported here, since torch takes seconds, and its own engine alone needs it.
    engine: BatchEngine
    with enough_memory(f"{bundle.source}: running it"):
        if machine_execution(config).runtime == "openvino":
            from wsi_pipeline.engine.openvino_engine import OpenVinoEngine

            engine = OpenVinoEngine(bundle, config)
        else:
            with torch_at_hand(f"{bundle.source}: running it by torch"):
                from wsi_pipeline.engine.torch_engine import TorchEngine

            engine = TorchEngine(bundle, config)
        engine.try_out()
    return engine
