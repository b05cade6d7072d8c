"""Files that a person writes, read into a model, with errors in a person's words."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from wsi_pipeline.errors import ConfigError

MAX_BYTES = 1 << 20
"""Of a configuration; a device has no end."""

Model = TypeVar("Model", bound=BaseModel)


def load_yaml(path: Path, kind: type[Model], settings: Sequence[str] = ()) -> Model:
    """Read a YAML file into a model; what the file leaves out has its default.

    Args:
        path: the file.
        kind: the model.
        settings: changes to what the file says, each ``key=value``: a key of a part is written
            ``part.key``, and the value as in YAML.

    Raises:
        ConfigError: if the file is missing, is not YAML, or holds anything that is not understood.

    """
    try:
        content = _read(_text(path))
        content = {} if content is None else content
        for setting in settings:
            _change(content, setting)
        return kind.model_validate(content)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: there is no such configuration file.") from error
    except (_NotYamlError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: this is not YAML ({error}). Correct the file.") from error
    except ValidationError as error:
        raise ConfigError(
            f"{path}: {problems(error)}. The files in configs/ explain every value."
        ) from error


def _text(path: Path) -> str:
    with path.open("rb") as file:
        raw = file.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise _NotYamlError(f"it goes on beyond {MAX_BYTES:,} bytes")
    return raw.decode("utf-8")


def _change(content: Any, setting: str) -> None:  # noqa: ANN401
    name, equals, value = setting.partition("=")
    *parts, key = name.split(".")
    for part in parts:
        content = content.setdefault(part, {}) if isinstance(content, dict) else None
    if not equals or not key or not isinstance(content, dict):
        raise ConfigError(
            f"'{setting}' sets no value of the configuration; write it as key=value, such as "
            "fit.epochs=20."
        )
    try:
        content[key] = _read(value)
    except _NotYamlError as error:
        raise ConfigError(f"'{setting}' is not YAML behind the sign ({error}).") from error


class _NotYamlError(Exception):
    """A text is no YAML, or one of its values is none of the kind that it is written as."""


def _read(text: str) -> Any:  # noqa: ANN401
    try:
        content = yaml.safe_load(text)
        scalars = [token.value for token in yaml.scan(text) if isinstance(token, yaml.ScalarToken)]
    # Of a date that is none, a number of ten thousand digits or a tag that does not fit its value,
    # PyYAML lets pass whatever Python says.
    except (
        yaml.YAMLError, RecursionError, ValueError, OverflowError, LookupError, TypeError,
        AttributeError,
    ) as error:  # fmt: skip
        raise _NotYamlError(" ".join(str(error).split()) or type(error).__name__) from error
    if any("\0" in scalar for scalar in scalars):
        raise _NotYamlError("it holds a NUL, which no path or name can have")
    return content


def problems(error: ValidationError) -> str:
    """Name each value that is wrong and why, in one line."""
    return "; ".join(
        f"{'.'.join(map(str, problem['loc'])) or 'the file'}: {problem['msg']}"
        for problem in error.errors()
    )
