from .base import Engine as Engine
from .build import build_engine as build_engine
from .execution import EngineConfig as EngineConfig
from .execution import Execution as Execution
from .execution import execution_of as execution_of
