"""The dependency arrows between the packages, held by reading the imports."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "ttt_ref": ROOT / "ttt_ref",
    "ttt_runtime": ROOT / "runtime" / "ttt_runtime",
    "ttt_quant": ROOT / "quant" / "ttt_quant",
    "ttt_export": ROOT / "export" / "ttt_export",
}
LEAVES = {"ttt_ref.config", "ttt_ref.errors"}
NEVER_ON_A_DEVICE = {"torch", "transformers", "onnx", "onnxscript", "accelerate", "safetensors"}


def imports_of(path: Path) -> set[str]:
    """Absolute module names that a file imports, at the top or inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; imports are absolute here"
            base = node.module or ""
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return found


def package_imports(package: str) -> list[tuple[Path, str]]:
    files = sorted(PACKAGES[package].rglob("*.py"))
    assert files, f"no files found in {package}"
    return [(path, name) for path in files for name in sorted(imports_of(path))]


def top(name: str) -> str:
    return name.split(".")[0]


def test_nothing_imports_the_exporter():
    for package in ("ttt_ref", "ttt_runtime", "ttt_quant"):
        for path, name in package_imports(package):
            assert top(name) != "ttt_export", f"{path} imports {name}"


def test_the_runtime_needs_only_the_leaves_of_the_reference():
    for path, name in package_imports("ttt_runtime"):
        assert top(name) not in NEVER_ON_A_DEVICE | {"ttt_quant"}, f"{path} imports {name}"
        if top(name) == "ttt_ref" and name != "ttt_ref":
            inside = any(name == leaf or name.startswith(f"{leaf}.") for leaf in LEAVES)
            assert inside, f"{path} imports {name}"


def test_the_reference_knows_no_other_package():
    # Recipes measure what ships, so they alone may drive the exporter's command or the runtime.
    for path, name in package_imports("ttt_ref"):
        if "recipes" in path.parts:
            continue
        assert top(name) not in {"ttt_runtime", "ttt_quant", "ttt_export"}, f"{path} imports {name}"


@pytest.mark.parametrize("leaf", sorted(LEAVES))
def test_leaves_import_the_standard_library_only(leaf):
    import sys

    path = ROOT / Path(*leaf.split(".")).with_suffix(".py")
    for name in imports_of(path):
        allowed = top(name) in sys.stdlib_module_names or name in LEAVES or name == "ttt_ref"
        allowed = allowed or any(name.startswith(f"{other}.") for other in LEAVES)
        assert allowed, f"{path} imports {name}"
