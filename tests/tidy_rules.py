"""The rules that test_tidy.py enforces, as functions from a tree of files to what is wrong in it.

Each rule takes a `Tree` and returns lines `path:line: what is wrong`; an empty list is a pass.
Rules read a tree and never the checkout itself, so that each of them is also run on a planted
violation: a rule that cannot fail would be worth nothing.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

# From the ground up. A house imports itself and the floors below it.
HOUSES = ("store", "raftlog", "shardkv", "ctrler", "tools")

TOP_LEVEL = {*HOUSES, "tests", "docs", ".ci"} | {
    *("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"),
    *("LICENSE", "Makefile", "pyproject.toml", ".gitignore"),
}

# The modules that know LMDB: the engine, and the file that it opens. The tests of their house may too: they forge damage.
LMDB_MODULE = "store/lmdb_engine.py"
LMDB_MODULES = {LMDB_MODULE, "store/lmdb_file.py"}
LMDB_TESTS = "tests/store/"

# The pure modules of raftlog, each with what it may import beyond them and the standard library.
# A new module that one of them imports belongs here too.
PURE_MODULES: dict[str, frozenset[str]] = {
    **dict.fromkeys(
        (
            *("raftlog.types", "raftlog.messages", "raftlog.config", "raftlog.log"),
            *("raftlog.roles", "raftlog.saves", "raftlog.state", "raftlog.elections"),
            *("raftlog.following", "raftlog.leading", "raftlog.members", "raftlog.core", "raftlog.invariants"),
        ),
        frozenset(),
    ),
    "raftlog.codec": frozenset({"cbor2"}),
    "raftlog.net.frames": frozenset({"cbor2"}),
}
# The parts of the standard library that reach the world: clocks, disk, network, threads, chance.
IMPURE_STDLIB = frozenset(
    {
        *("asyncio", "datetime", "logging", "multiprocessing", "os", "pathlib", "secrets"),
        *("select", "selectors", "shutil", "signal", "socket", "subprocess", "tempfile"),
        *("threading", "time", "uuid"),
    }
)

FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 60
# "path" or "path::Qualified.name" -> why it may be longer. An entry that is no longer needed is
# itself a violation.
LONG_FOR_A_REASON: dict[str, str] = {}


@dataclass(frozen=True)
class Import:
    """One imported name: the module, the name taken out of it (or None), and the line."""

    module: str
    name: str | None
    line: int

    @property
    def top(self) -> str:
        return self.module.partition(".")[0]


class Source:
    """One Python file: its path inside the tree, its lines and its syntax tree."""

    def __init__(self, root: Path, path: str) -> None:
        self.path = path
        self.text = (root / path).read_text(encoding="utf-8")
        self.lines = self.text.splitlines()
        self.syntax = ast.parse(self.text, filename=path)

    @property
    def top(self) -> str:
        return self.path.partition("/")[0]

    @property
    def module(self) -> str:
        return self.path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")

    def found(self, line: int, what: str) -> str:
        return f"{self.path}:{line}: {what}"

    def line(self, number: int) -> str:
        return self.lines[number - 1]

    def nodes(self) -> Iterator[ast.AST]:
        return ast.walk(self.syntax)

    def imports(self) -> Iterator[Import]:
        """Every import, wherever it stands, relative ones resolved, and `import_module("x")`."""
        for node in self.nodes():
            match node:
                case ast.Import(names=names):
                    for alias in names:
                        yield Import(alias.name, None, node.lineno)
                case ast.ImportFrom(module=module, names=names, level=level):
                    base = self._absolute(module, level)
                    for alias in names:
                        yield Import(base, alias.name, node.lineno)
                case ast.Call(func=func, args=[ast.Constant(value=str(module)), *_]) if called(func) in (
                    "import_module",
                    "__import__",
                ):
                    yield Import(module, None, node.lineno)

    def _absolute(self, module: str | None, level: int) -> str:
        if level == 0:
            return module or ""
        parts = self.path.removesuffix(".py").split("/")[:-level]
        return ".".join([*parts, *([module] if module else [])])


class Tree:
    """The files under a root that belong to the project."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def paths(self) -> list[str]:
        """Every file's path: what git tracks or would track, or all of a folder without git."""
        if (self.root / ".git").exists():
            command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
            listed = subprocess.run(command, cwd=self.root, stdout=subprocess.PIPE, text=True, check=True).stdout.split(
                "\0"
            )
            # A file that was removed but not yet committed as removed is still listed.
            return sorted({path for path in listed if path and (self.root / path).is_file()})
        files = (path for path in self.root.rglob("*") if path.is_file())
        return sorted(path.relative_to(self.root).as_posix() for path in files)

    @cached_property
    def sources(self) -> list[Source]:
        """Every Python file of the houses and of the tests."""
        folders = tuple(f"{top}/" for top in (*HOUSES, "tests"))
        return [Source(self.root, path) for path in self.paths if path.endswith(".py") and path.startswith(folders)]

    @property
    def houses(self) -> list[Source]:
        return [source for source in self.sources if source.top in HOUSES]

    def texts(self) -> Iterator[tuple[str, int, str]]:
        """Every line of every text file, as (path, line number, line)."""
        for path in self.paths:
            try:
                text = (self.root / path).read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue
            for number, line in enumerate(text.splitlines(), 1):
                yield path, number, line


Rule = Callable[[Tree], list[str]]


def called(func: ast.expr) -> str:
    """Return the last name of what is called: `sleep` for both `sleep()` and `time.sleep()`."""
    match func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def is_name(node: ast.expr, *names: str) -> bool:
    return isinstance(node, ast.Name) and node.id in names


# Structure


def imports_go_down(tree: Tree) -> list[str]:
    floor = {house: number for number, house in enumerate(HOUSES)}
    return [
        source.found(found.line, f"{source.top} imports {found.top}, which is not below it")
        for source in tree.houses
        for found in source.imports()
        if found.top == "tests" or floor.get(found.top, -1) > floor[source.top]
    ]


def one_module_imports_lmdb(tree: Tree) -> list[str]:
    wrong = []
    importers = set()
    for source in tree.sources:
        for found in source.imports():
            if found.top == "lmdb" and not source.path.startswith(LMDB_TESTS):
                importers.add(source.path)
                if source.path not in LMDB_MODULES:
                    wrong.append(source.found(found.line, f"only {LMDB_MODULE} imports lmdb"))
    if LMDB_MODULE not in importers:
        wrong.append(f"{LMDB_MODULE}:1: the module that imports lmdb is missing")
    return wrong


def pure_modules_are_pure(tree: Tree) -> list[str]:
    wrong = []
    by_module = {source.module: source for source in tree.houses}
    for module, extra in PURE_MODULES.items():
        source = by_module.get(module)
        if source is None:
            wrong.append(f"{module}: the rules call it pure, and it is not there")
            continue
        for found in source.imports():
            if not is_pure_import(found, extra):
                what = f"{found.module}.{found.name}" if found.name else found.module
                wrong.append(source.found(found.line, f"a pure module imports {what}"))
        wrong.extend(chance_in(source))
    return wrong


def is_pure_import(found: Import, extra: frozenset[str]) -> bool:
    if found.top == "raftlog":
        return found.module in PURE_MODULES or f"{found.module}.{found.name}" in PURE_MODULES
    if found.top in sys.stdlib_module_names:
        return found.top not in IMPURE_STDLIB
    return found.top in extra


def chance_in(source: Source) -> Iterator[str]:
    """Chance is an argument: of `random` only the type is used, and never made at import."""
    for found in source.imports():
        if found.module == "random" and found.name not in (None, "Random"):
            yield source.found(found.line, f"a pure module uses random.{found.name}")
    for node in source.nodes():
        match node:
            case ast.Attribute(value=ast.Name(id="random"), attr=name) if name != "Random":
                yield source.found(node.lineno, f"a pure module uses random.{name}")
            case ast.Call(args=[], keywords=[]) if called(node.func) == "Random":
                yield source.found(node.lineno, "Random() without a seed")
    for call in calls_at_import(source.syntax):
        if called(call.func) == "Random":
            yield source.found(call.lineno, "a source of chance made at import")


def calls_at_import(node: ast.AST) -> Iterator[ast.Call]:
    """Every call that runs when the module is imported: outside the bodies of functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and child in node.body:
            continue
        if isinstance(node, ast.Lambda):
            continue
        if isinstance(child, ast.Call):
            yield child
        yield from calls_at_import(child)


def folders_are_packages(tree: Tree) -> list[str]:
    """Without `__init__.py`, pytest puts tests/ on the path, and tests/store hides store."""
    present = {source.path for source in tree.sources}
    folders = {path.rpartition("/")[0] for path in present}
    wanted = sorted(f"{folder}/__init__.py" for folder in folders)
    return [f"{path}:1: missing" for path in wanted if path not in present]


def top_level_is_known(tree: Tree) -> list[str]:
    found = sorted({path.partition("/")[0] for path in tree.paths})
    return [f"{top}:1: not a known top-level name" for top in found if top not in TOP_LEVEL]


# What is not used at all


def nothing_is_unpickled_or_evaluated(tree: Tree) -> list[str]:
    wrong = []
    for source in tree.sources:
        for found in source.imports():
            if found.top in ("pickle", "marshal", "shelve"):
                wrong.append(source.found(found.line, f"{found.top} is not used here"))
        for node in source.nodes():
            if isinstance(node, ast.Call) and is_name(node.func, "eval", "exec"):
                wrong.append(source.found(node.lineno, f"{called(node.func)}() is not used here"))
    return wrong


def exceptions_are_named(tree: Tree) -> list[str]:
    """A catch of everything needs its reason on its line: `# tidy: the reason`."""
    wrong = []
    for source in tree.sources:
        for node in source.nodes():
            if not isinstance(node, ast.ExceptHandler | ast.Call) or not catches_everything(node):
                continue
            if not re.search(r"# tidy: \S", source.line(node.lineno)):
                wrong.append(source.found(node.lineno, "catches everything, and says not why"))
    return wrong


def catches_everything(node: ast.ExceptHandler | ast.Call) -> bool:
    match node:
        case ast.ExceptHandler(type=None):
            return True
        case ast.ExceptHandler(type=ast.Tuple(elts=caught)):
            pass
        case ast.ExceptHandler(type=ast.expr() as one):
            caught = [one]
        case ast.Call(func=func, args=caught) if called(func) == "suppress":
            pass
        case _:
            return False
    return any(is_name(name, "Exception", "BaseException") for name in caught)


def only_tools_print(tree: Tree) -> list[str]:
    return [
        source.found(node.lineno, "print() outside tools")
        for source in tree.sources
        if source.top != "tools"
        for node in source.nodes()
        if isinstance(node, ast.Call) and is_name(node.func, "print")
    ]


def no_sleep_in_tests(tree: Tree) -> list[str]:
    wrong = []
    for source in tree.sources:
        if source.top != "tests":
            continue
        for found in source.imports():
            if (found.module, found.name) == ("time", "sleep"):
                wrong.append(source.found(found.line, "time.sleep in a test"))
        for node in source.nodes():
            match node:
                case ast.Attribute(value=ast.Name(id="time"), attr="sleep"):
                    wrong.append(source.found(node.lineno, "time.sleep in a test"))
    return wrong


# Size and words


def files_and_functions_are_short(tree: Tree, allowed: dict[str, str] | None = None) -> list[str]:
    allowed = LONG_FOR_A_REASON if allowed is None else allowed
    long = {}
    for source in tree.sources:
        if len(source.lines) > FILE_LINES_MAX:
            long[source.path] = source.found(1, f"{len(source.lines)} lines")
        for name, function in functions(source.syntax):
            if (length := function_lines(function)) > FUNCTION_LINES_MAX:
                long[f"{source.path}::{name}"] = source.found(function.lineno, f"{name} has {length} lines")
    wrong = [line for key, line in long.items() if key not in allowed]
    wrong += [f"{key}: allowed to be long, and is not" for key in allowed if key not in long]
    return wrong


Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, Function]]:
    for child in ast.iter_child_nodes(node):
        name = prefix
        if isinstance(child, Function | ast.ClassDef):
            name = f"{prefix}.{child.name}" if prefix else child.name
        if isinstance(child, Function):
            yield name, child
        yield from functions(child, name)


def function_lines(function: Function) -> int:
    """Lines of a function, its docstring left out: a long contract is no sign of a bad one."""
    first = function.body[0]
    docstring = 0
    if ast.get_docstring(function) is not None:
        docstring = (first.end_lineno or first.lineno) - first.lineno + 1
    return (function.end_lineno or function.lineno) - function.lineno + 1 - docstring


def docstrings_are_there(tree: Tree) -> list[str]:
    """Every module of the houses, and every public class and function at module level."""
    wrong = []
    for source in tree.houses:
        if ast.get_docstring(source.syntax) is None:
            wrong.append(source.found(1, "the module has no docstring"))
        for node in source.syntax.body:
            if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_"):
                continue
            if any(called(decorator) == "overload" for decorator in node.decorator_list):
                continue
            if ast.get_docstring(node) is None:
                wrong.append(source.found(node.lineno, f"{node.name} has no docstring"))
    return wrong


# The patterns are put together from parts, or this file would be the first to break its own rules.
MACHINE_PATH = re.compile(r"(?<![\w.})$*-])/(?:" + "|".join(["work", "root", r"home/\w+"]) + ")/")
REGISTRY_HOST = re.compile(
    "|".join(
        re.escape(".".join(parts))
        for parts in (
            ("pypi", "org"),
            ("pythonhosted", "org"),
            ("deb", "debian", "org"),
            ("npmjs", "org"),
            ("npmjs", "com"),
            ("crates", "io"),
            ("anaconda", "org"),
        )
    )
)
LEFT_FOR_LATER = re.compile(r"\b(?:" + "|".join(["TO" + "DO", "FIX" + "ME", "X" * 3]) + r")\b")


def no_path_of_one_machine(tree: Tree) -> list[str]:
    return lines_with(tree, MACHINE_PATH, "a path of somebody's machine")


def no_registry_host(tree: Tree) -> list[str]:
    return lines_with(tree, REGISTRY_HOST, "the host of a package registry")


def nothing_left_for_later(tree: Tree) -> list[str]:
    return lines_with(tree, LEFT_FOR_LATER, "something left for later")


def lines_with(tree: Tree, pattern: re.Pattern[str], what: str) -> list[str]:
    return [
        f"{path}:{number}: {what}: {found[0]}" for path, number, line in tree.texts() if (found := pattern.search(line))
    ]


RULES: tuple[Rule, ...] = (
    imports_go_down,
    one_module_imports_lmdb,
    pure_modules_are_pure,
    folders_are_packages,
    top_level_is_known,
    nothing_is_unpickled_or_evaluated,
    exceptions_are_named,
    only_tools_print,
    no_sleep_in_tests,
    files_and_functions_are_short,
    docstrings_are_there,
    no_path_of_one_machine,
    no_registry_host,
    nothing_left_for_later,
)
