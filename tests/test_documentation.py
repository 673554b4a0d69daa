"""The documentation says what the code says: package levels, diagrams, lengths, words."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.test_architecture import ROOT, RUNTIME_LEVELS

LEVEL_ROW = re.compile(r"^\| (\d) \| `(\w+)` \|", re.MULTILINE)
TEXTS = {".py", ".md", ".toml", ".c", ".h", ".yml", ".js", ".html", ""}


def texts() -> list[Path]:
    """Return the text files that git knows or would add; without git, none."""
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    files = [ROOT / name for name in names.splitlines()]
    return [file for file in files if file.suffix in TEXTS and file.is_file()]


def test_contributing_shows_the_levels_of_the_runtime():
    rows = LEVEL_ROW.findall((ROOT / "CONTRIBUTING.md").read_text())
    shown = [{name for level, name in rows if int(level) == i + 1} for i in range(len(rows))]
    assert [names for names in shown if names] == list(RUNTIME_LEVELS)


def test_the_package_diagram_is_up_to_date(tmp_path):
    drawn = tmp_path / "packages.svg"
    script = ROOT / "docs" / "make_package_diagram.py"
    subprocess.run([sys.executable, script, drawn], check=True)
    kept = (ROOT / "docs" / "packages.svg").read_text()
    assert drawn.read_text() == kept, "draw it again: python docs/make_package_diagram.py"


def test_the_readme_is_read_in_five_minutes():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 180


def test_every_page_is_linked_from_the_readme():
    readme = (ROOT / "README.md").read_text()
    for page in sorted((ROOT / "docs").glob("*.md")):
        assert f"](docs/{page.name}" in readme, f"link docs/{page.name} from the README's table"


def test_no_text_tells_the_order_of_the_work():
    files = texts()
    if not files:
        pytest.skip("this is no git checkout")
    word = "sit" + "ting"
    named = [str(file) for file in files if word in file.read_text(errors="replace").lower()]
    assert not named


def site() -> ModuleType:
    """Return the hook that says what the documentation site contains."""
    spec = importlib.util.spec_from_file_location("site_hook", ROOT / ".ci" / "site.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_site_has_every_page_and_every_package():
    pytest.importorskip("mkdocs")
    hook = site()
    written = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")}
    assert written | {"README.md", "CONTRIBUTING.md", "recipes/tiny/README.md"} <= set(hook.pages())
    packages = {f"ttt_runtime.{name}" for level in RUNTIME_LEVELS for name in level}
    assert packages | {"ttt_ref", "ttt_export", "ttt_quant"} <= set(hook.packages())
    assert "ttt_runtime.decode.engine" in hook.packages()["ttt_runtime.decode"]


def test_files_that_pages_link_to_are_part_of_the_site(tmp_path):
    pytest.importorskip("mkdocs")
    assert {"LICENSE", "docs/turn.svg"} <= site().linked_files(ROOT / "README.md")
    page = tmp_path / "page.md"
    page.write_text("[no page](https://example.org) [outside](../x) no heading")
    assert site().linked_files(page) == set()
    with pytest.raises(ValueError, match="begin it with"):
        site().title(page)
