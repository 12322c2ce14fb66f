"""Signatures: a fast twin is used only while the plain source is unchanged since its equality tests passed.

A twin (`Twin`) names its plain class or function and every function of minillm that this calls. Its signature is the
SHA-256 of the source of each, read from its file, with line ends normalized; `signatures.json` holds all signatures. A
part also counts as changed if the code in this process is not what its file compiles to: a class attribute or a
function of a module was replaced (monkeypatched), or a file was edited after its import. `python -m minillm.speed sign`
runs the equality tests and rewrites the signatures only if they pass. Read `rms_norm` for a twin; next: `accelerate`.
"""

import ast
import functools
import gc
import hashlib
import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

FILE = Path(__file__).with_name("signatures.json")
OURS = "minillm."  # sources of other packages are not hashed
WRAPPERS = ("torch.utils._contextlib", "contextlib", "torch.autograd.function")  # modules of the decorators we use
_log = logging.getLogger("minillm.speed")


class Twin(NamedTuple):
    """A fast version of a plain class or function."""

    # for a module class a subclass, for a function a function with the same arguments; for a class that is not a
    # module a class that is built from a plain object
    fast: Any
    # the plain class, or its methods, or the plain function; and all functions of minillm that it calls
    signed: tuple[Any, ...]
    # parts that a fast module does not call -> the exact class that each must have
    bypassed: Mapping[str, type] = {}


class Part(NamedTuple):
    """One name of a signed source, with its value in this process."""

    namespace: Mapping[str, Any]  # of its module or class
    name: str
    value: Any  # the value of the name
    code: CodeType | None

    def unchanged(self) -> bool:
        """Whether the name still has this value, with this code."""
        value = self.namespace.get(self.name)
        return value is self.value and (self.code is None or _function(value).__code__ is self.code)


class Verdict(NamedTuple):
    """Whether a twin is in force, and the parts in this process on which the decision depends."""

    why_not: str  # the reason against the twin; "": the twin is in force
    parts: list[Part]
    sizes: list[tuple[Mapping[str, Any], int]]  # namespaces of signed classes, each with its number of names

    def holds(self) -> bool:
        """Whether nothing was replaced since the verdict."""
        return all(part.unchanged() for part in self.parts) and all(len(held) == size for held, size in self.sizes)


_verdicts: dict[Any, Verdict] = {}  # by plain class or function
_said: set[str] = set()


def in_force(plain: Any, twin: Twin) -> bool:
    """Whether the twin may replace `plain`; if not, the reason is logged, once per reason."""
    verdict = _verdicts.get(plain)
    if verdict is None or not verdict.holds():
        verdict = _verdicts[plain] = judge(plain, twin)
    if verdict.why_not:
        say(verdict.why_not)
    return not verdict.why_not


def say(why: str) -> None:
    """Log a reason why plain code runs, unless it was logged before."""
    if why not in _said:
        _said.add(why)
        _log.warning("%s", why)


def judge(plain: Any, twin: Twin, signatures: Mapping[str, Mapping[str, str]] | None = None) -> Verdict:
    """Compare the signed source of a twin with the source in this process."""
    known = (read_signatures() if signatures is None else signatures).get(name_of(plain), {})
    parts = [part for thing in twin.signed for part in _parts(thing)]
    sizes = [(vars(thing), len(vars(thing))) for thing in twin.signed if isinstance(thing, type)]
    reasons = (why_changed(thing, known.get(name_of(thing), "")) for thing in twin.signed)
    why = next(filter(None, reasons), "")
    return Verdict(why and f"{name_of(plain)} runs without its fast twin, since {why}", parts, sizes)


def why_changed(thing: Any, sha256: str) -> str:
    """A sentence on how a class or function differs from its signature; "" if it does not differ."""
    namespace, name = _place(thing)
    if not ours(thing):
        file, code = sys.modules[thing.__module__].__file__, thing.__code__
        same = (code.co_filename, code.co_qualname) == (file, thing.__qualname__) and namespace.get(name) is thing
        return "" if same else f"{name_of(thing)} was replaced in this process"
    source = source_of(thing)
    if source is None:
        return f"the source of {name_of(thing)} cannot be read"
    if not source.is_loaded(thing):
        return f"{name_of(thing)} was replaced in this process"
    if source.sha256(thing) != sha256:
        return f"{name_of(thing)} was changed; python -m minillm.speed sign tests the twin and signs it again"
    return ""


def signature(twin: Twin) -> dict[str, str]:
    """Name -> SHA-256 of the source, for each signed part. Raises ValueError if a source cannot be read."""
    found = {}
    for thing in filter(ours, twin.signed):
        source = source_of(thing)
        if source is None:
            raise ValueError(f"{name_of(thing)}: expected source in a file, to be signed; define it in a module")
        found[name_of(thing)] = source.sha256(thing)
    return found


@functools.cache
def read_signatures() -> dict[str, dict[str, str]]:
    """Name of a plain class or function -> its twin's signature."""
    return json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {}


def name_of(thing: Any) -> str:
    """The full name, such as minillm.layers.norm.RMSNorm."""
    return f"{thing.__module__}.{thing.__qualname__}"


def ours(thing: Any) -> bool:
    """Whether a class or function belongs to minillm."""
    return thing.__module__.startswith(OURS)


@functools.cache
def methods(kind: type) -> frozenset[str]:
    """Names of methods of a class; an object with an attribute of such a name has a replaced method."""
    compiled = {"_compiled_call_impl"}  # set by nn.Module.compile
    return frozenset(compiled.union(name for name in dir(kind) if callable(getattr(kind, name, None))))


class Source(NamedTuple):
    """The source file of a module: its lines, and the code that it compiles to."""

    lines: list[str]
    places: dict[str, tuple[int, int]]  # qualified name -> slice of its lines, decorators included
    code: dict[str, list[CodeType]]  # qualified name -> code objects
    imports: dict[str, tuple[str, str]]  # name -> module of minillm, and the name in that module

    def sha256(self, thing: Any) -> str:
        """SHA-256 of the lines of a class or function, decorators included."""
        begin, end = self.places[thing.__qualname__]
        return hashlib.sha256("".join(self.lines[begin:end]).encode()).hexdigest()

    def is_loaded(self, thing: Any) -> bool:
        """Whether the code of a class or function in this process is what the file compiles to."""
        namespace, name = _place(thing)
        if namespace.get(name) is not thing or thing.__qualname__ not in self.places:
            return False
        if not isinstance(thing, type):
            return self._has(thing.__qualname__, thing)
        prefix = f"{thing.__qualname__}."
        inner = (name.removeprefix(prefix) for name in self.places if name.startswith(prefix))
        methods = {name for name in inner if "." not in name}
        held = {name: value for name, value in vars(thing).items() if _function(value) or callable(value)}
        known = all(self._has(f"{thing.__qualname__}.{name}", value) for name, value in held.items())
        return known and methods <= held.keys()

    def _has(self, name: str, value: Any) -> bool:
        function = _function(value)
        if function is None or function.__code__ not in self.code.get(name, ()):
            return False
        seen = ((function.__globals__.get(name), *self.imports[name]) for name in self.imported_by(function))
        return all(value is vars(sys.modules[module]).get(there) for value, module, there in seen)

    def imported_by(self, function: FunctionType) -> list[str]:
        """Names in a function that its module imports from minillm; replacing one changes what the function does."""
        return [name for code in _all_code(function.__code__) for name in code.co_names if name in self.imports]


def source_of(thing: Any) -> Source | None:
    """The source file of the module that defines a class or function; None if there is none."""
    module = sys.modules.get(thing.__module__)
    path = getattr(module, "__file__", None)
    if path is None or not Path(path).is_file() or not path.endswith(".py"):
        return None
    stat = Path(path).stat()
    return _read(module.__name__, path, stat.st_mtime_ns, stat.st_size)


@functools.cache
def _read(name: str, path: str, *_stamp: int) -> Source:
    text = Path(path).read_text(encoding="utf-8")  # subtle: all line ends become "\n"
    spec = sys.modules[name].__spec__
    code = spec.loader.get_code(name) if spec is not None else compile(text, path, "exec")  # uses the bytecode cache
    with _no_collection():
        places, imports = _outline(ast.parse(text))
    codes: dict[str, list[CodeType]] = {}
    for each in _all_code(code):
        codes.setdefault(each.co_qualname, []).append(each)
    return Source(text.splitlines(keepends=True), places, codes, imports)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Pause the garbage collector; the objects of a syntax tree would start it, and it would traverse all of torch."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _outline(tree: ast.Module) -> tuple[dict[str, tuple[int, int]], dict[str, tuple[str, str]]]:
    """The places and imports of a `Source`."""
    places, imports = {}, {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(OURS):
            imports |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
        places |= dict(_places(node, ""))
    return places, imports


def _places(node: ast.stmt, prefix: str) -> Iterator[tuple[str, tuple[int, int]]]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        yield prefix + node.name, (first - 1, node.end_lineno)
    if isinstance(node, ast.ClassDef):
        for inner in node.body:
            yield from _places(inner, f"{prefix}{node.name}.")


def _all_code(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _all_code(constant)


def _function(value: Any) -> FunctionType | None:
    """The function in a value: inside a method or property, and under decorators of torch; None if there is none."""
    if isinstance(value, property):
        value = value.fget
    value = getattr(value, "__func__", value)
    while isinstance(value, FunctionType) and hasattr(value, "__wrapped__") and _is_wrapper(value):
        value = value.__wrapped__
    return value if isinstance(value, FunctionType) else None


def _is_wrapper(function: FunctionType) -> bool:
    return function.__globals__.get("__name__") in WRAPPERS


def _place(thing: Any) -> tuple[Mapping[str, Any], str]:
    """The namespace (of a module or class) to which a class or function belongs, and its name there."""
    *path, name = thing.__qualname__.split(".")
    namespace: Mapping[str, Any] = vars(sys.modules.get(thing.__module__, ModuleType("")))
    for outer in path:
        namespace = vars(namespace[outer]) if outer in namespace else {}
    return namespace, name


def _parts(thing: Any) -> list[Part]:
    """The parts that must be unchanged for a verdict on a class or function to hold."""
    namespace, name = _place(thing)
    held = [(namespace, name, namespace.get(name))]
    if isinstance(thing, type):
        held += [(vars(thing), key, value) for key, value in vars(thing).items()]
    source = source_of(thing) if ours(thing) else None
    functions = [function for _, _, value in held if source and (function := _function(value))]
    held += [(f.__globals__, used, f.__globals__[used]) for f in functions for used in source.imported_by(f)]
    return [
        Part(where, key, value, function.__code__ if (function := _function(value)) is not None else None)
        for where, key, value in held
    ]
