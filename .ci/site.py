"""Hook of MkDocs (mkdocs.yml): which files are the site, and in which order.

The pages keep the places that they have in the repository, so one link serves a reader of the
repository and a reader of the site. The API reference has one page for each package, made of the
docstrings of its public modules.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT: Final = Path(__file__).resolve().parents[1]
SOURCES: Final = {
    "ttt_runtime": ROOT / "runtime",
    "ttt_export": ROOT / "export",
    "ttt_quant": ROOT / "quant",
    "ttt_ref": ROOT,
}
HOME: Final = "README.md"
PROJECT: Final = ("CONTRIBUTING.md", "CHANGELOG.md")
# Read in this order; pages that are not named come behind, by their titles.
FIRST: Final = ("semantics", "design", "model_card", "performance", "quality", "export")
LINK: Final = re.compile(r"\]\(<?([^)#\s>]+)")


def title(page: Path) -> str:
    """Return the first heading of a page."""
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("# "):
            return line.removeprefix("# ").strip()
    raise ValueError(f"{page} has no heading; begin it with `# Title`")


def guides() -> list[Path]:
    """Return the pages under docs/, those of FIRST in front."""
    pages = sorted((ROOT / "docs").glob("*.md"), key=lambda page: title(page).lower())
    order = {name: number for number, name in enumerate(FIRST)}
    return sorted(pages, key=lambda page: order.get(page.stem, len(FIRST)))


def recipes() -> list[Path]:
    """Return the pages of the recipes."""
    return sorted((ROOT / "recipes").rglob("*.md"))


def packages() -> dict[str, list[str]]:
    """Return package -> its public modules, the package itself first if it says something."""
    found: dict[str, list[str]] = {}
    for top, root in SOURCES.items():
        for file in sorted((root / top).rglob("*.py")):
            module = ".".join(file.relative_to(root).with_suffix("").parts)
            if any(part.startswith("_") for part in module.split(".") if part != "__init__"):
                continue
            package, _, name = module.rpartition(".")
            if name == "__init__":
                found.setdefault(package, []).insert(0, package)
            else:
                found.setdefault(package, []).append(module)
    return {package: modules for package, modules in found.items() if len(modules) > 1}


def api_page(package: str, modules: list[str]) -> str:
    """Return the page of a package: one reference for each module."""
    lines = [f"# {package}", ""]
    for module in modules:
        # Of a package only its own docstring: its modules follow.
        own = ["    options:", "      members: false", ""] if module == package else [""]
        lines += [f"::: {module}", *own]
    return "\n".join(lines)


def linked_files(page: Path) -> set[str]:
    """Return the files of the repository, no pages, that a page links to."""
    found = set()
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        file = (page.parent / target).resolve()
        if file.is_file() and file.suffix != ".md" and file.is_relative_to(ROOT):
            found.add(file.relative_to(ROOT).as_posix())
    return found


def pages() -> list[str]:
    """Return the places of all written pages."""
    written = [ROOT / HOME, *guides(), *recipes(), *(ROOT / name for name in PROJECT)]
    return [page.relative_to(ROOT).as_posix() for page in written]


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Set the navigation."""
    config.nav = [
        {"TtT edge": HOME},
        {"Guides": [page.relative_to(ROOT).as_posix() for page in guides()]},
        {"Recipes": [page.relative_to(ROOT).as_posix() for page in recipes()]},
        {"Project": list(PROJECT)},
        {"API reference": [{package: f"api/{package}.md"} for package in packages()]},
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replace what MkDocs found below docs/ by the pages at their places in the repository."""
    site = Files([file for file in files if file.generated_by])
    names = pages()
    for name in names:
        site.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    for name in sorted(set().union(*(linked_files(ROOT / name) for name in names))):
        site.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    for package, modules in packages().items():
        content = api_page(package, modules)
        site.append(File.generated(config, f"api/{package}.md", content=content))
    return site
