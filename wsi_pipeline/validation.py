"""Files that a person writes, read into a model, with errors in a person's words."""

from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from wsi_pipeline.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)


def load_yaml(path: Path, kind: type[Model]) -> Model:
    """Read a YAML file into a model; what the file leaves out has its default.

    Raises:
        ConfigError: if the file is missing, is not YAML, or holds anything that is not understood.

    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return kind.model_validate(content or {})
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: there is no such configuration file.") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: this is not YAML ({error}). Correct the file.") from error
    except ValidationError as error:
        raise ConfigError(
            f"{path}: {problems(error)}. The files in configs/ explain every value."
        ) from error


def problems(error: ValidationError) -> str:
    """Name each value that is wrong and why, in one line."""
    return "; ".join(
        f"{'.'.join(map(str, problem['loc'])) or 'the file'}: {problem['msg']}"
        for problem in error.errors()
    )
