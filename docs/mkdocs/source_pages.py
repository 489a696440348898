"""A hook of mkdocs: links that leave `docs/`, to source files and model cards, lead to pages of the site that show them.

In the repository the same links lead to the files themselves.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_LINK = re.compile(r"(?<=\]\()(\.\./[^)#\s]+)(?=[)#])")
_LANGUAGES = {".py": "python", ".md": "markdown", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".json": "json"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for every file outside of `docs/` that a page links to."""
    for file in list(files.documentation_pages()):
        for link in _LINK.findall(file.content_string):
            source = _outside(file.src_uri, link, config)
            uri = None if source is None else _page_of(source, config)
            if uri is not None and files.get_file_from_path(uri) is None:
                files.append(File.generated(config, uri, content=_shown(source, config)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns the links of a page to those pages."""

    def to_page(match: re.Match) -> str:
        source = _outside(page.file.src_uri, match[1], config)
        if source is None:
            return match[1]
        here = PurePosixPath(page.file.src_uri).parent
        return os.path.relpath(_page_of(source, config), here).replace(os.sep, "/")

    return markdown if page.file.generated_by else _LINK.sub(to_page, markdown)


def _outside(page: str, link: str, config: MkDocsConfig) -> Path | None:
    """The file that a link leads to, if it lies in the repository and outside of `docs/`."""
    docs = Path(config.docs_dir).resolve()
    target = (docs / page).parent.joinpath(link).resolve()
    inside = target.is_relative_to(docs) or not target.is_relative_to(docs.parent)
    return None if inside or not target.is_file() else target


def _page_of(source: Path, config: MkDocsConfig) -> str:
    return f"source/{source.relative_to(Path(config.docs_dir).resolve().parent).as_posix()}.md"


def _shown(source: Path, config: MkDocsConfig) -> str:
    name = source.relative_to(Path(config.docs_dir).resolve().parent).as_posix()
    text = source.read_text(encoding="utf-8")
    fence = "`" * (1 + max([3, *map(len, re.findall(r"`{3,}", text))]))
    language = _LANGUAGES.get(source.suffix, "text")
    header = f"---\nsearch:\n  exclude: true\nhide:\n  - navigation\n  - toc\n---\n\n# {name}\n\n"
    return f"{header}{fence}{language}\n{text}{fence}\n"
