"""YAML for settings: what YAML allows, but a settings file never means, is refused with its key and line."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml

from motive_pipeline.errors import ConfigError

MAX_NODES = 100_000
"""More keys and values than a settings file has. A few short lines of aliases of aliases can stand for billions."""

_INT, _FLOAT, _MAP = (f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "map"))
_OTHER_BASE = re.compile(r"[-+]?0[0-7_]+|[-+]?[0-9_]+(:[0-9.]+)+")
"""Numbers that YAML 1.1 reads in base 8 (``017`` is 15) or 60 (``1:30`` is 90)."""


def load_yaml(text: str, file: Path) -> Any:
    """The value of ``text``, the content of ``file``.

    Raises:
        ConfigError: it is no YAML, a key is given twice, an alias stands inside of what it names, a number is infinite or NaN or would be
            read in base 8 or 60, a value is none of its kind (a date, a number of 5,000 digits), or a list is written as a set.
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _Check(file, loader).check(node, (), ())
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: not valid YAML: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{file}: brackets or sections lie too deep in one another. Settings are at most a few levels deep.") from error
    finally:
        loader.dispose()


class _Check:
    """Walks through the nodes of a file, aliases followed, and refuses the first that no setting is."""

    def __init__(self, file: Path, loader: yaml.SafeLoader) -> None:
        self._file = file
        self._loader = loader
        self._num_nodes = 0

    def check(self, node: yaml.Node, path: tuple[str, ...], above: tuple[yaml.Node, ...]) -> None:
        """Check ``node``, which lies at the dotted ``path`` inside of the nodes ``above``."""
        self._num_nodes += 1
        if self._num_nodes > MAX_NODES:
            raise self._refusal(node, path, f"more than {MAX_NODES} keys and values, with aliases (*name) written out")
        if any(node is each for each in above):
            raise self._refusal(node, path, "an alias (*name) stands inside of what it names. Write the value out")
        if isinstance(node, yaml.MappingNode):
            if node.tag != _MAP:
                raise self._refusal(node, path, f"{node.tag} is no kind of value that a setting has. Write a list: [a, b]")
            self._check_keys(node, path)
            for key, value in node.value:
                self.check(value, (*path, str(key.value)), (*above, node))
        elif isinstance(node, yaml.SequenceNode):
            for number, value in enumerate(node.value):
                self.check(value, (*path, str(number)), (*above, node))
        else:
            self._check_scalar(node, path)

    def _check_keys(self, node: yaml.MappingNode, path: tuple[str, ...]) -> None:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in lines:
                raise self._refusal(key, (*path, name), f"given twice, first in line {lines[name]}. Only one can count: remove the other")
            lines[name] = line

    def _check_scalar(self, node: yaml.Node, path: tuple[str, ...]) -> None:
        try:
            value = self._loader.construct_object(node)
        except (ValueError, OverflowError) as error:
            raise self._refusal(node, path, f"cannot be read ({error})") from error
        if node.tag in (_INT, _FLOAT) and _OTHER_BASE.fullmatch(node.value):
            raise self._refusal(node, path, f"YAML reads {node.value} as {value}. Write {value}, or the number that you mean")
        if node.tag == _FLOAT and not math.isfinite(value):
            raise self._refusal(node, path, f"{node.value} is not a number that a setting can have. Write a finite one")

    def _refusal(self, node: yaml.Node, path: tuple[str, ...], why: str) -> ConfigError:
        return ConfigError(f"{self._file}, line {node.start_mark.line + 1}: {'.'.join(path) or '(file)'}: {why}.")
