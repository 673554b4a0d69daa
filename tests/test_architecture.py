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
# Packages of the runtime, ground first. Those of one level do not import each other.
RUNTIME_LEVELS = (
    {"bundle", "machine", "terminal"},
    {"backends"},
    {"codec", "decode"},
    {"audio"},
    {"dialogue"},
    {"doctor", "profiler", "server"},
    {"cli"},
)
LEAVES = {
    "ttt_ref.arguments",
    "ttt_ref.bounded",
    "ttt_ref.command_line",
    "ttt_ref.config",
    "ttt_ref.errors",
    "ttt_ref.launch",
    "ttt_ref.offline",
    "ttt_ref.outputs",
    "ttt_ref.package",
    "ttt_ref.ranges",
    "ttt_ref.released",
    "ttt_ref.schema",
    "ttt_ref.streams",
    "ttt_ref.toml",
}
# What a leaf may import beside: both belong to the device install.
OTHER_LIBRARIES = {("ttt_ref.toml", "tomli"), ("ttt_ref.command_line", "typer")}
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


def module_graph(root: Path, package: str) -> dict[str, set[str]]:
    """Return module -> modules of the package that it imports, lazy imports included."""
    files = sorted((root / package).rglob("*.py"))
    names = {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for path in files
    }
    return {
        module: {name for name in modules_of(path, set(names)) if name != module}
        for module, path in names.items()
    }


def modules_of(path: Path, known: set[str]) -> set[str]:
    """Return the known modules that a file imports; `from package import module` is the module."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            inside = {f"{base}.{alias.name}" for alias in node.names}
            found |= inside & known
            if inside - known:
                found.add(base)
    return found & known


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """Return a path of modules that comes back to its beginning; empty if there is none."""
    done: set[str] = set()

    def walk(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        for name in sorted(graph[module]):
            found = walk(name, [*path, module])
            if found:
                return found
        done.add(module)
        return []

    return next((found for module in sorted(graph) if (found := walk(module, []))), [])


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_no_import_cycle(package):
    graph = module_graph(PACKAGES[package].parent, package)
    assert not cycle(graph), " -> ".join(cycle(graph))


def test_a_cycle_is_found():
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert cycle({"a": {"b"}, "b": set()}) == []


def test_no_import_goes_up_in_the_runtime():
    level = {name: i for i, names in enumerate(RUNTIME_LEVELS) for name in names}
    for module, names in module_graph(PACKAGES["ttt_runtime"].parent, "ttt_runtime").items():
        here = module.split(".")[1:2]
        for name in names:
            there = name.split(".")[1:2]
            if here and there and here != there and here != ["__main__"]:
                assert level[there[0]] < level[here[0]], f"{module} imports {name}"


def test_the_runtime_has_no_flat_modules():
    flat = {path.name for path in PACKAGES["ttt_runtime"].glob("*.py")}
    assert flat <= {"__init__.py", "__main__.py"}


def test_every_package_of_the_runtime_has_its_level():
    folders = {p.name for p in PACKAGES["ttt_runtime"].iterdir() if (p / "__init__.py").is_file()}
    assert folders <= set().union(*RUNTIME_LEVELS)


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
    for path, name in package_imports("ttt_ref"):
        others = {"ttt_runtime", "ttt_quant", "ttt_export", "recipes"}
        assert top(name) not in others, f"{path} imports {name}"


@pytest.mark.parametrize("leaf", sorted(LEAVES))
def test_leaves_import_the_standard_library_only(leaf):
    import sys

    path = ROOT / Path(*leaf.split(".")).with_suffix(".py")
    for name in imports_of(path):
        allowed = top(name) in sys.stdlib_module_names or name in LEAVES or name == "ttt_ref"
        allowed = allowed or any(name.startswith(f"{other}.") for other in LEAVES)
        allowed = allowed or (leaf, top(name)) in OTHER_LIBRARIES
        assert allowed, f"{path} imports {name}"


def test_what_a_board_runs_knows_python_3_10():
    """JetPack 6 has it: no tomllib, no typing.Self. Other names are found by `make lint`."""
    leaves = [(path, name) for path, name in package_imports("ttt_ref") if module(path) in LEAVES]
    younger = {"tomllib", "typing.Self", "typing.Never", "enum.StrEnum", "asyncio.TaskGroup"}
    for path, name in [*package_imports("ttt_runtime"), *leaves]:
        assert name not in younger or module(path) == "ttt_ref.toml", f"{path} imports {name}"


def test_asyncio_times_out_by_its_own_error():
    """Up to Python 3.10 that is not the builtin TimeoutError: slow clients were never let go."""
    for path in sorted(PACKAGES["ttt_runtime"].rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        assert not {"asyncio", "TimeoutError"} <= names, f"{path}: say asyncio.TimeoutError"


def module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)
