"""Read ``motive.yaml`` into a :class:`Config`."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import ValidationError

from motive_pipeline.config.error_text import error_text
from motive_pipeline.config.fingerprints import Config
from motive_pipeline.config.folders import require_usable_folders
from motive_pipeline.config.paths import resolve_paths
from motive_pipeline.config.section import section_names
from motive_pipeline.config.strict_yaml import load_yaml
from motive_pipeline.errors import ConfigError


def load_config(path: Path | str | None = None) -> Config:
    """The config at ``path``, else ``$MOTIVE_CONFIG``, else ``motive.yaml`` in the working folder.

    Relative paths inside the file are taken from the file's own folder.

    Raises:
        ConfigError: no such file, no YAML (see :func:`~.strict_yaml.load_yaml`), an unknown key, or a value that is not allowed; the message lists all mistakes.
    """
    file = Path(path or os.environ.get("MOTIVE_CONFIG") or "motive.yaml").expanduser().resolve()
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read the config {file}: {error.strerror}. Name one with --config or MOTIVE_CONFIG.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: not UTF-8 text ({error}). Save the file as UTF-8.") from error
    return parse_config(text, file)


def parse_config(text: str, file: Path) -> Config:
    """``text`` as the content of ``file``; see :func:`load_config`."""
    raw = load_yaml(text, file)
    if not isinstance(raw, dict):
        raise ConfigError(f"{file}: expected sections such as 'clips:' at the top level, found {type(raw).__name__}")
    raw = {key: ({} if value is None and key in section_names(Config) else value) for key, value in raw.items()}
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(error_text(error, file)) from error
    config = resolve_paths(config, file.parent)
    require_usable_folders(config)
    config._file, config._text = file, text
    return config
