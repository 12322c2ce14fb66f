"""The architecture: imports go down, every file has a docstring, and importing has no effects."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "minillm").rglob("*.py"))
FLOORS = [
    "system constants lessons",
    "config",
    "cache tokenizers backprop commands",
    "layers datasets",
    "models",
    "objectives decoding quantization",
    "speed interop adapters",
    "text training engine parallel",
    "alignment prompting evaluation scaling serving",
    "tasks",
    "runs",
    "console",
    "quantize plot chat serve download lm_eval",
]
FLOOR = {package: floor for floor, packages in enumerate(FLOORS) for package in packages.split()}

each_file = pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])


def imported(path: Path) -> set[str]:
    """Packages of minillm that a file imports, anywhere in it."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    assert not any(isinstance(node, ast.ImportFrom) and node.level for node in nodes), "imports are written in full"
    names = [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
    names += [
        f"{node.module}.{alias.name}" for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names
    ]
    names += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("minillm.")}


def package_of(path: Path) -> str:
    return path.relative_to(ROOT / "minillm").parts[0].removesuffix(".py")


@each_file
def test_imports_only_go_down(path):
    package = package_of(path)
    if package == "__init__":
        assert imported(path) == {"runs"}, "two functions for notebooks"
        return
    assert package in FLOOR, f"say in FLOORS where {package} lives"
    floor = len(FLOORS) if path.name == "__main__.py" else FLOOR[package]  # python -m minillm.PACKAGE is a command
    for other in imported(path) - {package}:
        assert FLOOR[other] < floor, f"{package} (floor {floor}) imports {other} (floor {FLOOR[other]})"


def test_the_rule_finds_an_import_that_goes_up_or_sideways(tmp_path):
    file = tmp_path / "x.py"
    file.write_text(
        "import minillm.run\ndef f():\n    from minillm.models.decoder import Decoder\n    from minillm import text\n"
    )
    assert imported(file) == {"run", "models", "text"}


@each_file
def test_every_file_says_what_it_is_for(path):
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring and docstring.splitlines()[0].endswith((".", ":", "?", ")", "py")), (
        "a docstring opens with a sentence"
    )


def hidden_imports(source: str) -> set[str]:
    """Names that a file imports and a function in it uses for something else, which hides the import there."""
    tree = ast.parse(source)
    statements = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {(each.asname or each.name).partition(".")[0] for statement in statements for each in statement.names}
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    own = {node.arg for function in functions for node in ast.walk(function.args) if isinstance(node, ast.arg)}
    for function in functions:
        inside = [node for node in ast.walk(function) if isinstance(node, ast.Name)]
        own |= {node.id for node in inside if isinstance(node.ctx, ast.Store)}
    return names & own


@pytest.mark.parametrize("folder", ["minillm", "benchmarks", "."])
def test_no_name_in_a_function_hides_an_import(folder):
    files = (ROOT / folder).glob("*.py") if folder == "." else (ROOT / folder).rglob("*.py")
    assert {path.name: hidden for path in files if (hidden := hidden_imports(path.read_text(encoding="utf-8")))} == {}


def test_a_hidden_import_is_found():
    assert hidden_imports("from a import b, c\nimport d\ndef f(b):\n    with b as d: return c") == {"b", "d"}


ASKS_PYTHON = {  # files that look at objects of Python itself, or at source code
    "config/flags.py",
    "config/loading.py",
    "datasets/python_docs.py",
    "speed/allocator.py",
    "speed/signing.py",
}


def probes(source: str) -> list[str]:
    """Calls that ask an object what it can do: `hasattr`, `getattr` with a default, anything of `inspect`."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    named = [(ast.unparse(call.func), len(call.args)) for call in calls]
    return [
        name for name, n in named if name == "hasattr" or (name == "getattr" and n == 3) or name.startswith("inspect.")
    ]


@each_file
def test_a_capability_is_declared_and_never_probed(path):
    if str(path.relative_to(ROOT / "minillm")) not in ASKS_PYTHON:
        assert not probes(path.read_text(encoding="utf-8")), "declare it in a protocol (rule 10)"


def test_probes_are_found_and_no_file_is_excused_that_needs_no_excuse():
    assert probes("hasattr(x, 'y') or getattr(x, 'y', 0) or getattr(x, name)") == ["hasattr", "getattr"]
    assert probes("inspect.signature(f).parameters") == ["inspect.signature"]
    assert all(probes((ROOT / "minillm" / name).read_text(encoding="utf-8")) for name in ASKS_PYTHON)


@each_file
def test_no_file_is_named_after_nothing(path):
    assert not {"utils", "util", "common", "helpers", "misc"} & {
        part.removesuffix(".py") for part in path.relative_to(ROOT).parts
    }


@each_file
def test_packages_pass_nothing_on(path):
    if path.name == "__init__.py" and path.parent != ROOT / "minillm":
        body = ast.parse(path.read_text(encoding="utf-8")).body
        assert len(body) == 1 and isinstance(body[0], ast.Expr), "an __init__.py holds a docstring and nothing else"


def test_importing_minillm_imports_nothing_else():
    code = "import sys, minillm; print([name for name in sys.modules if name.startswith(('torch', 'minillm.'))])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_importing_everything_prints_nothing_and_loads_nothing_that_only_some_runs_need():
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in FILES]
    modules = [module for module in modules if not module.endswith("__main__")]
    seldom = [
        "transformers",
        "matplotlib",
        "pytest",
        "hypothesis",
        "safetensors",
        "gguf",
        "sacrebleu",
        "rouge_score",
        "sentencepiece",
        "starlette",
        "uvicorn",
    ]
    code = f"import sys, {', '.join(modules)}; print([name for name in {seldom} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("[]\n", "")
