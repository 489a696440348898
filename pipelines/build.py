"""Writes `pipelines/mvcustom/pipeline.py`, the one-file form of the pipeline for the Hub, from `src/`.

    python pipelines/build.py            # write it
    python pipelines/build.py --check    # exit 1 if it is not current

diffusers loads a custom pipeline from a single file, and nested relative imports break there. So the pipeline and what
it needs of the package are laid one after the other, lowest room first, with the imports between them taken out.
Nothing is rewritten; two modules that give different things the same name are refused.
"""

from __future__ import annotations

import argparse
import ast
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "diffusers_mvcustom"
TARGET = ROOT / "pipelines" / "mvcustom" / "pipeline.py"
ENTRY = "pipelines.pipeline_mvcustom"

HEADER = '''# Generated from diffusers-mvcustom by pipelines/build.py. Do not edit: change src/ and build again.
#
# Licensed under the Apache License, Version 2.0; see https://www.apache.org/licenses/LICENSE-2.0.
"""MVCustomPipeline in one file, for `DiffusionPipeline.from_pretrained(..., custom_pipeline=..., trust_remote_code=True)`."""

from __future__ import annotations
'''


@dataclass
class Module:
    """One source module: its own text without imports, what it imports from outside, and whom it needs inside."""

    name: str
    body: str = ""
    external: list[str] = field(default_factory=list)
    needs: list[str] = field(default_factory=list)
    defines: dict[str, str] = field(default_factory=dict)


def find_file(name: str) -> Path:
    """The file of a module named relative to the package."""
    path = SOURCE.joinpath(*name.split(".")) if name else SOURCE
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def absolute_name(importer: str, node: ast.ImportFrom) -> str:
    """The module that a relative import means, named relative to the package."""
    package = importer.split(".") if find_file(importer).name == "__init__.py" else importer.split(".")[:-1]
    base = package[: len(package) - (node.level - 1)]
    return ".".join([*base, *(node.module.split(".") if node.module else [])])


def defining_module(module: str, name: str) -> str:
    """Follows re-exports in `__init__` files to the module that defines `name`."""
    if find_file(module).name != "__init__.py":
        return module
    body = ast.parse(find_file(module).read_text()).body
    # A name that is imported when it is first used has its import where type checkers see it.
    lazy = [child for node in body if isinstance(node, ast.If) for child in node.body]
    for node in [*body, *lazy]:
        if isinstance(node, ast.ImportFrom) and node.level and any(alias.name == name for alias in node.names):
            return defining_module(absolute_name(module, node), name)
    return f"{module}.{name}"  # a module of the package itself


def read_module(name: str) -> Module:
    """Takes a module apart."""
    text = find_file(name).read_text()
    lines = text.splitlines()
    module = Module(name)
    removed: set[int] = set()

    def visit_import(node: ast.Import | ast.ImportFrom, top: bool) -> None:
        relative = isinstance(node, ast.ImportFrom) and node.level
        if relative:
            for alias in node.names:
                if alias.asname is not None:
                    raise SystemExit(f"{name}: `import {alias.name} as {alias.asname}` cannot be laid into one file")
                module.needs.append(defining_module(absolute_name(name, node), alias.name))
        elif top and not (isinstance(node, ast.ImportFrom) and node.module == "__future__"):
            module.external.append(ast.unparse(node))
        if relative or top:
            removed.update(range(node.lineno, node.end_lineno + 1))

    tree = ast.parse(text)
    for i, node in enumerate(tree.body):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            visit_import(node, top=True)
        elif i == 0 and isinstance(node, ast.Expr):  # the docstring becomes a heading
            removed.update(range(node.lineno, node.end_lineno + 1))
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            module.external.extend(ast.unparse(child) for child in node.body if not getattr(child, "level", 0))
            removed.update(range(node.lineno, node.end_lineno + 1))
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            removed.update(range(node.lineno, node.end_lineno + 1))
        else:
            for defined in definitions(node):
                module.defines[defined] = ast.unparse(node)
            for child in ast.walk(node):
                if isinstance(child, ast.ImportFrom) and child.level:
                    visit_import(child, top=False)
    heading = (ast.get_docstring(tree) or name).splitlines()[0]
    body = "\n".join(line for number, line in enumerate(lines, 1) if number not in removed).strip("\n")
    module.body = f"# --- {name.replace('.', '/')}.py: {heading}\n\n\n{body}\n"
    return module


def definitions(node: ast.stmt) -> list[str]:
    """Names that a top-level statement defines."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [node.name]
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [node.target.id]
    return []


def collect(name: str, modules: dict[str, Module], pending: tuple[str, ...] = ()) -> None:
    """Reads `name` and all it needs into `modules`, needed ones first."""
    if name in modules or name in pending:
        return
    module = read_module(name)
    for needed in dict.fromkeys(module.needs):
        collect(needed, modules, (*pending, name))
    modules[name] = module


def merged_imports(lines: set[str]) -> list[str]:
    """Import lines with one line per module."""
    plain, names = set(), {}
    for line in lines:
        node = ast.parse(line).body[0]
        if isinstance(node, ast.Import):
            plain.add(line)
        else:
            names.setdefault(node.module, set()).update(ast.unparse(alias) for alias in node.names)
    return sorted(plain) + [
        f"from {module} import {', '.join(sorted(found))}" for module, found in sorted(names.items())
    ]


def build() -> str:
    """The text of the one file."""
    modules: dict[str, Module] = {}
    collect(ENTRY, modules)
    owners: dict[str, tuple[str, str]] = {}
    conflicts = []
    for module in modules.values():
        for defined, text in module.defines.items():
            owner, known = owners.setdefault(defined, (module.name, text))
            if known != text:
                conflicts.append(f"{defined!r} means different things in {owner} and {module.name}; rename one")
    for module in modules.values():
        for line in module.external:
            for bound in ast.parse(line).body[0].names:
                # `import a.b` binds `a`, the same thing wherever it stands.
                name = bound.asname or bound.name.partition(".")[0]
                plain = line.startswith("import ") and bound.asname is None
                meaning = (
                    f"import {name}" if plain else line.partition(" import ")[0] + f" import {ast.unparse(bound)}"
                )
                owner, known = owners.setdefault(name, (module.name, meaning))
                if known != meaning:
                    conflicts.append(f"{name!r} means different things in {owner} and {module.name}; rename one")
    if conflicts:
        raise SystemExit("\n".join(conflicts))
    external = merged_imports({line for module in modules.values() for line in module.external})
    parts = [HEADER, "\n".join(external) + "\n", *(module.body for module in modules.values())]
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only check that the file is current")
    arguments = parser.parse_args()
    text = build()
    if arguments.check:
        if not TARGET.exists() or TARGET.read_text() != text:
            sys.exit(f"{TARGET.relative_to(ROOT)} is not current: run `python pipelines/build.py`")
        return
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(text)
    print(f"{TARGET.relative_to(ROOT)}: {len(text.splitlines())} lines")


if __name__ == "__main__":
    main()
