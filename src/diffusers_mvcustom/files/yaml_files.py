"""YAML files, read within bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ..errors import MVCustomError
from .text_files import is_unicode, read_text

_LARGEST = 2**24


class _PlainLoader(yaml.SafeLoader):
    """Values only: no objects, and no aliases, with which a few lines can stand for more than any memory holds."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(
                None, None, f"the alias *{event.anchor}: aliases are not read", event.start_mark
            )
        return super().compose_node(parent, index)


def read_yaml(file: Path) -> Any:
    """The content of a YAML file, without objects and aliases.

    Raises:
        MVCustomError: naming the file and the place in it that cannot be read.
    """
    text = read_text(file, largest=_LARGEST)
    try:
        content = yaml.load(text, Loader=_PlainLoader)
        unicode = is_unicode(content)
    except RecursionError as error:
        raise MVCustomError(f"{file}: is not well formed YAML: nested too deeply.") from error
    except Exception as error:  # values that contradict their tag raise whatever their conversion does
        raise MVCustomError(f"{file}: is not well formed YAML: {str(error) or type(error).__name__}") from error
    if not unicode:
        raise MVCustomError(f"{file}: expected Unicode text, got half of a surrogate pair.")
    return content
