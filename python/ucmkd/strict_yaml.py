"""YAML as recipes, studies and configurations have it: plain values, and nothing twice."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from .config_errors import ConfigError

#: How deep values may be nested, and how many there may be when every alias is written out.
DEPTH, VALUES = 50, 100_000

# 1e-3: a number to YAML 1.2 and to everybody, a text to PyYAML (YAML 1.1 wants 1.0e-3).
_SCIENTIFIC = (
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def read_yaml_text(text: str) -> Any:
    """Plain values from YAML text, by the safe loader; ``1e-3`` is a number, ``"1e-3"`` a text.

    Raises:
        ConfigError: it is no YAML, a mapping names a key twice (plain YAML keeps the last,
            silently), a value is not what its tag or its form says (``2020-13-45``), values are
            nested more than 50 deep, contain themselves, or become more than 100,000 by aliases.
    """
    try:
        loader = _StrictLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _count(node, {})
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ConfigError(f"not valid YAML: {line}{error.problem}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"not valid YAML: {error}") from None


def to_yaml_text(values: Any) -> str:
    """Plain values as YAML text, keys in their order; :func:`read_yaml_text` reads them back."""
    return yaml.dump(values, Dumper=_StrictDumper, sort_keys=False, allow_unicode=True)


class _StrictDumper(yaml.SafeDumper):
    """Quotes texts such as the digest ``1234e567``, which the loader would take for numbers."""


class _StrictLoader(yaml.SafeLoader):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self._depth > DEPTH:
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem=f"nested more than {DEPTH} deep", problem_mark=mark)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if not isinstance(node, yaml.ScalarNode):
            return super().construct_object(node, deep)
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError, AttributeError, IndexError, OverflowError):
            what, shown = node.tag.rpartition(":")[2], node.value[:40]
            raise ConfigError(f"line {node.start_mark.line + 1}: {shown!r} is no {what}") from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):
                if key in seen:
                    line = key_node.start_mark.line + 1
                    raise ConfigError(f"line {line}: the key {key!r} appears twice")
                seen.add(key)
        return super().construct_mapping(node, deep)


for _kind in (_StrictLoader, _StrictDumper):  # each gets a table of its own
    _kind.add_implicit_resolver(*_SCIENTIFIC)


def _count(node: yaml.Node, sizes: dict[yaml.Node, int]) -> int:
    """Values under a node, an alias counted as what it stands for; 0 marks one being counted."""
    if node in sizes:
        if sizes[node] == 0:
            line = node.start_mark.line + 1
            raise ConfigError(f"not valid YAML: line {line}: a value contains itself")
        return sizes[node]
    sizes[node] = 0
    below: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        below = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        below = node.value
    sizes[node] = 1 + sum(_count(part, sizes) for part in below)
    if sizes[node] > VALUES:
        many = f"more than {VALUES} values; aliases count as written out"
        raise ConfigError(f"not valid YAML: {many}")
    return sizes[node]
