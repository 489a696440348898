"""An extension of griffe: docstrings as diffusers writes them, brought into the form that mkdocstrings shows well.

- "name (`type`, *optional*): text" becomes "name: `type`, *optional*. text"; the signature tells the type as well.
- "[`Name`]" becomes a link where it is a public name, else plain code.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator

import griffe

_REFERENCE = re.compile(r"\[`(~?)(\w+)((?:\.\w+)*)`\](?![\[(])")
_PARENTHESES = r"\((?:[^()]|\([^()]*\))*\)"
_ENTRY = re.compile(rf"((?:\w+(?:\s+{_PARENTHESES})?,?\s*)+):\s+(.*)", re.DOTALL)
_NAME = re.compile(rf"(\w+)(?:\s+({_PARENTHESES}))?")
_SECTION = re.compile(r"^( *)(Args|Attributes|Returns):\n((?:\1 +.*\n|\n)+)", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Rewrites the docstrings of a package when it has been loaded."""

    def on_package(self, *, pkg: griffe.Module, **kwargs) -> None:
        public = {name: _path(module, name) for module in _packages(pkg) for name in module.exports or ()}
        for described in _objects(pkg):
            if described.docstring is not None:
                described.docstring.value = _rewritten(described.docstring.value, public)


def _packages(package: griffe.Module) -> list[griffe.Module]:
    """The package and its subpackages, whose names have precedence over those that the package passes on."""
    return [package, *(m for m in package.modules.values() if not m.is_alias and m.is_init_module)]


def _path(package: griffe.Module, name: str) -> str:
    """Where a public name is found; a function whose module has its name is hidden behind that."""
    member = package.members.get(name)
    hidden = member is not None and not member.is_alias and member.is_module
    return f"{package.path}.{name}.{name}" if hidden else f"{package.path}.{name}"


def _objects(scope: griffe.Module | griffe.Class) -> Iterator[griffe.Object]:
    yield scope
    for member in scope.members.values():
        if member.is_alias:
            continue
        if member.is_module or member.is_class:
            yield from _objects(member)
        else:
            yield member


def _rewritten(text: str, public: dict[str, str]) -> str:
    def link(match: re.Match) -> str:
        short, name, rest = match.groups()
        shown = rest.rpartition(".")[2] if short and rest else name + rest
        return f"[`{shown}`][{public[name]}{rest}]" if name in public else f"`{shown}`"

    text = _REFERENCE.sub(link, textwrap.dedent(text) + "\n")
    return _SECTION.sub(_section, text).rstrip("\n")


def _section(match: re.Match) -> str:
    indent, title, block = match.groups()
    body = textwrap.dedent(block).strip("\n")
    if title == "Returns":
        lines = re.sub(r"\A([^:\n]+):\s+", r"\1. ", body)
    else:
        lines = "\n".join(_entry(entry) for entry in re.split(r"\n(?=\S)", body))
    return f"{indent}{title}:\n{textwrap.indent(lines, indent + '    ')}\n\n"


def _entry(entry: str) -> str:
    """One entry for each name that stands before the colon, types moved into the text."""
    found = _ENTRY.fullmatch(entry)
    if found is None:
        return entry
    text = re.sub(r"\n\s+(?![-*|\s])", " ", found[2])
    lines = []
    for name, kind in _NAME.findall(found[1]):
        kind = " ".join(kind[1:-1].split())
        lines.append(f"{name}: {kind}. {text}" if kind else f"{name}: {text}")
    return "\n".join(lines)
