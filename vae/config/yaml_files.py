"""Read YAML files that may be damaged, or come from anybody."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import yaml

from vae.errors import UserError

MAX_BYTES, MAX_DEPTH = 1_000_000, 50  # the parsers crash at a depth of some ten thousand

parse_fast = partial(yaml.load, Loader=yaml.CSafeLoader)


class ConfigLoader(yaml.CSafeLoader):
    """Reads a config as OmegaConf does, ten times as fast: 1e-3 is a number, dates are texts, and keys are unique."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[Any]]] = {
        letter: [(tag, pattern) for tag, pattern in found if not tag.endswith((":timestamp", ":float"))]
        for letter, found in yaml.CSafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in keys:
                raise yaml.MarkedYAMLError(problem=f"found duplicate key {key.value}", problem_mark=key.start_mark)
            keys.add(key.value)
        return super().construct_mapping(node, deep)


ConfigLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^(?:[-+]?([0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?|\.[0-9]+([eE][-+][0-9]+)?"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)
parse_config = partial(yaml.load, Loader=ConfigLoader)


def check_structure(text: str, aliases: bool) -> None:
    """Raise YAMLError if a text is not YAML, is too deep, or has aliases though they are not allowed.

    Aliases can multiply the size of a file. The values are not built.
    """
    depth = 0
    for event in yaml.parse(text, yaml.CSafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem=f"nested deeper than {MAX_DEPTH}", problem_mark=event.start_mark)
        if isinstance(event, yaml.AliasEvent) and not aliases:
            raise yaml.MarkedYAMLError(problem=f"alias *{event.anchor} is not allowed", problem_mark=event.start_mark)


def read_yaml(path: Path, parse: Callable[[str], Any] = parse_fast, aliases: bool = False) -> Any:
    """Return the content of a YAML file. `parse` converts its text.

    Raises UserError, which names the file and the line, if it is not valid YAML in UTF-8, is too large or too deep, or
    has aliases though they are not allowed.
    """
    content = path.read_bytes()
    if len(content) > MAX_BYTES:
        raise UserError(f"{path}: {len(content)} bytes; expected at most {MAX_BYTES}")
    try:
        text = content.decode("utf-8-sig")
        check_structure(text, aliases)
        return parse(text)
    except UnicodeDecodeError as error:
        line, problem = content.count(b"\n", 0, error.start) + 1, "expected text in UTF-8"
    except yaml.reader.ReaderError as error:
        line, problem = text.count("\n", 0, error.position) + 1, f"character {error.character:#x} is not allowed"
    except yaml.MarkedYAMLError as error:
        line, problem = error.problem_mark.line + 1 if error.problem_mark else 1, str(error.problem)
    except ValueError as error:  # an integer of thousands of digits, or an impossible date
        line, problem = 1, str(error)
    raise UserError(f"{path}: line {line}: {problem}")
