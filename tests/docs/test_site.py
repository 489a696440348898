"""The documentation as a site: its navigation, its links, and that it asks no other machine for anything."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest
import yaml
from docs.page_blocks import DOCS, PAGES, ROOT

import diffusers_mvcustom

LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)\)")
REFERENCE = re.compile(r"\[`~?(\w+)((?:\.\w+)*)`\](?!\()")
EXPLICIT_REFERENCE = re.compile(r"\]\[[a-zA-Z_]\w*\.[\w.]+\]")
API = sorted({page.stem for page in (DOCS / "api").glob("*.md")} - {"index"})
FENCED = re.compile(r"^( *)(`{3,}).*?^\1\2$", re.MULTILINE | re.DOTALL)


class _Configuration(yaml.SafeLoader):
    """mkdocs.yml may name Python objects; here they are only text."""


_Configuration.add_multi_constructor("tag:yaml.org,2002:python/name:", lambda loader, suffix, node: suffix)


def settings():
    return yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), _Configuration)


def pages_of(entry):
    """The pages of a part of the navigation."""
    if isinstance(entry, str):
        return [entry]
    parts = entry.values() if isinstance(entry, dict) else entry
    return [page for part in parts for page in pages_of(part)]


def anchors_of(page):
    """The anchors of a page's headings, as GitHub and mkdocs make them."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", title.lower()).strip()) for title in titles}


def links_of(page):
    text = re.sub(r"`[^`\n]*`", "", FENCED.sub("", page.read_text(encoding="utf-8")))
    return [unquote(link) for link in LINK.findall(text) if not re.match(r"(https?|mailto):", link)]


def test_the_navigation_names_every_page_once():
    named = pages_of(settings()["nav"])
    assert sorted(named) == sorted(page.relative_to(DOCS).as_posix() for page in PAGES)


def test_every_subpackage_has_a_page_of_its_api():
    modules = pkgutil.iter_modules(diffusers_mvcustom.__path__)
    public = {module.name for module in modules if module.ispkg and module.name not in ("cli", "files")}
    assert sorted(public) == API
    for name in public:
        assert f"::: diffusers_mvcustom.{name}\n" in (DOCS / "api" / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", [pytest.param(page, id=page.relative_to(DOCS).as_posix()) for page in PAGES])
def test_links_lead_somewhere(page):
    for link in links_of(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.is_file(), link
        assert target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in anchors_of(target), link


def test_a_link_that_leads_nowhere_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A title, here\n\n[a](there.md#x) `[b](c.md)` ![p](p.png)\n\n```text\n[d](e.md)\n```\n")
    assert links_of(page) == ["there.md#x", "p.png"]
    assert anchors_of(page) == {"a-title-here"}


def test_no_fonts_from_elsewhere():
    theme = settings()["theme"]
    assert theme["font"] is False


class _Requests(HTMLParser):
    """What a page makes a browser fetch: not what it links to."""

    def __init__(self):
        super().__init__()
        self.fetched, self.ids = [], set()

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.ids.add(given.get("id"))
        fetches = tag in ("script", "img", "iframe", "source", "video", "audio", "embed", "object")
        if tag == "link":
            fetches = given.get("rel") not in ("canonical", "next", "prev", "alternate")
        if fetches:
            self.fetched += [given[name] for name in ("src", "href", "data", "srcset") if given.get(name)]


def public_names():
    packages = [diffusers_mvcustom, *(importlib.import_module(f"diffusers_mvcustom.{name}") for name in API)]
    return {name: getattr(package, name) for package in packages for name in package.__all__}


def lost_references(source, public):
    """The references of a module's docstrings that lead nowhere; names that are not public are shown as plain code."""
    nodes = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef)]
    lost = []
    for docstring in filter(None, map(ast.get_docstring, nodes)):
        lost += EXPLICIT_REFERENCE.findall(docstring)
        for name, members in REFERENCE.findall(docstring):
            found = public.get(name)
            for member in members.split(".")[1:] if name in public else ():
                # A field of a dataclass without a default is no attribute of the class.
                found = getattr(found, member, None) or getattr(found, "__dataclass_fields__", {}).get(member)
            if name in public and found is None:
                lost.append(name + members)
    return lost


def test_references_in_docstrings_lead_somewhere():
    public = public_names()
    for module in sorted((ROOT / "src").rglob("*.py")):
        assert lost_references(module.read_text(encoding="utf-8"), public) == [], module.name


def test_a_reference_that_leads_nowhere_is_found():
    text = '''def f():\n    """[`f`], [`Cameras.resize`], [`Cameras.resise`], [b][Cameras.b], [`save`][Cameras.save]."""\n'''
    assert lost_references(text, public_names()) == ["][Cameras.b]", "][Cameras.save]", "Cameras.resise"]


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_fetches_nothing_from_elsewhere(tmp_path):
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    site = tmp_path / "site"
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", site],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr[-3000:]
    ids = {}
    for page in sorted(site.rglob("*.html")):
        requests = _Requests()
        requests.feed(page.read_text(encoding="utf-8"))
        assert [url for url in requests.fetched if re.match(r"(https?:)?//", url)] == [], page.name
        ids[page.relative_to(site).as_posix()] = requests.ids
    for style in site.rglob("*.css"):
        assert not re.search(r"""(url\(|@import)\s*["']?(https?:)?//""", style.read_text(encoding="utf-8")), style.name
    for page in (DOCS / "api").glob("*.md"):
        if page.stem == "index":
            continue
        package, shown = f"diffusers_mvcustom.{page.stem}", ids[f"api/{page.stem}.html"]
        names = importlib.import_module(package).__all__
        # A function whose module has its name is shown by its full path.
        assert [n for n in names if not {f"{package}.{n}", f"{package}.{n}.{n}"} & shown] == []
