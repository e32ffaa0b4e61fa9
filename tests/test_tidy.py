"""The tidy rules hold for this checkout, and each of them sees a planted violation."""

from pathlib import Path

import pytest

from tests.tidy_rules import (
    FILE_LINES_MAX,
    FUNCTION_LINES_MAX,
    LMDB_MODULE,
    PURE_MODULES,
    RULES,
    Rule,
    Tree,
    docstrings_are_there,
    exceptions_are_named,
    files_and_functions_are_short,
    folders_are_packages,
    imports_go_down,
    no_path_of_one_machine,
    no_registry_host,
    no_sleep_in_tests,
    nothing_is_unpickled_or_evaluated,
    nothing_left_for_later,
    one_module_imports_lmdb,
    only_tools_print,
    pure_modules_are_pure,
    top_level_is_known,
)

CHECKOUT = Path(__file__).resolve().parent.parent

Files = dict[str, str]


@pytest.fixture(scope="module")
def checkout() -> Tree:
    return Tree(CHECKOUT)


def name_of(rule: Rule) -> str:
    return rule.__name__


@pytest.mark.parametrize("rule", RULES, ids=name_of)
def test_the_checkout_keeps(rule: Rule, checkout: Tree) -> None:
    if wrong := rule(checkout):
        pytest.fail("\n".join(wrong), pytrace=False)


def plant(root: Path, files: Files) -> Tree:
    """Lay out the least tree that keeps every rule, then the given files on top of it."""
    tidy: Files = {f"{module.replace('.', '/')}.py": '"""Pure."""\n' for module in PURE_MODULES}
    tidy[LMDB_MODULE] = '"""The engine."""\nimport lmdb\n'
    tidy |= {
        f"{folder}/__init__.py": '"""A package."""\n'
        for folder in ("store", "raftlog", "raftlog/net", "shardkv", "ctrler", "tools", "tests")
    }
    for path, text in {**tidy, **files}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return Tree(root)


def test_a_tree_without_violations_passes_every_rule(tmp_path: Path) -> None:
    tree = plant(
        tmp_path,
        {
            "README.md": "Run it in ./work/ or under $HOME/root/ as you like.\n",
            "raftlog/core.py": (
                '"""Pure."""\nimport random\nfrom raftlog import types\nfrom .log import x\n'
                "def _pick(rng: random.Random) -> float:\n    return rng.random()\n"
            ),
            "tools/cli.py": (
                '"""Above everything."""\nimport ctrler, store\nprint(1)\n'
                "try:\n    pass\nexcept Exception:  # tidy: the last line of defence\n    pass\n"
            ),
            "tests/test_x.py": "import store.engine\n\ndef test_x(): pass\n",
        },
    )
    assert [line for rule in RULES for line in rule(tree)] == []


HEAD = '"""A module."""\n'
LONG_BODY = "".join(f"    x{i} = {i}\n" for i in range(FUNCTION_LINES_MAX))

# (rule, planted files, the one place that the rule must name)
PLANTS: list[tuple[Rule, Files, str]] = [
    (imports_go_down, {"store/a.py": HEAD + "import raftlog.core\n"}, "store/a.py:2:"),
    (imports_go_down, {"shardkv/a.py": HEAD + "from ctrler import x\n"}, "shardkv/a.py:2:"),
    (imports_go_down, {"tools/a.py": HEAD + "import tests.x\n"}, "tools/a.py:2:"),
    (
        imports_go_down,
        {"raftlog/a.py": HEAD + "def _f():\n    import shardkv\n"},
        "raftlog/a.py:3:",
    ),
    (
        imports_go_down,
        {"store/a.py": HEAD + "import importlib\nimportlib.import_module('tools')\n"},
        "store/a.py:3:",
    ),
    (one_module_imports_lmdb, {"raftlog/a.py": HEAD + "import lmdb\n"}, "raftlog/a.py:2:"),
    (one_module_imports_lmdb, {"tests/test_a.py": "from lmdb import x\n"}, "tests/test_a.py:1:"),
    (one_module_imports_lmdb, {LMDB_MODULE: HEAD}, f"{LMDB_MODULE}:1:"),
    (pure_modules_are_pure, {"raftlog/core.py": HEAD + "import trio\n"}, "raftlog/core.py:2:"),
    (pure_modules_are_pure, {"raftlog/core.py": HEAD + "import time\n"}, "raftlog/core.py:2:"),
    (pure_modules_are_pure, {"raftlog/log.py": HEAD + "import store\n"}, "raftlog/log.py:2:"),
    (pure_modules_are_pure, {"raftlog/log.py": HEAD + "import cbor2\n"}, "raftlog/log.py:2:"),
    (
        pure_modules_are_pure,
        {"raftlog/log.py": HEAD + "from .node import x\n", "raftlog/node.py": HEAD},
        "raftlog/log.py:2:",
    ),
    (
        pure_modules_are_pure,
        {"raftlog/net/frames.py": HEAD + "from .. import node\n", "raftlog/node.py": HEAD},
        "raftlog/net/frames.py:2:",
    ),
    (
        pure_modules_are_pure,
        {"raftlog/core.py": HEAD + "from random import choice\n"},
        "raftlog/core.py:2:",
    ),
    (
        pure_modules_are_pure,
        {"raftlog/core.py": HEAD + "import random\ndef _f():\n    random.shuffle([])\n"},
        "raftlog/core.py:4:",
    ),
    (
        pure_modules_are_pure,
        {"raftlog/core.py": HEAD + "import random\n_rng = random.Random(1)\n"},
        "raftlog/core.py:3:",
    ),
    (
        pure_modules_are_pure,
        {"raftlog/core.py": HEAD + "import random\ndef _f():\n    random.Random()\n"},
        "raftlog/core.py:4:",
    ),
    (folders_are_packages, {"tests/store/test_a.py": ""}, "tests/store/__init__.py:1:"),
    (top_level_is_known, {"scripts/a.sh": ""}, "scripts:1:"),
    (top_level_is_known, {"setup.py": ""}, "setup.py:1:"),
    (nothing_is_unpickled_or_evaluated, {"store/a.py": HEAD + "import pickle\n"}, "store/a.py:2:"),
    (
        nothing_is_unpickled_or_evaluated,
        {"tests/a.py": "from marshal import loads\n"},
        "tests/a.py:1:",
    ),
    (nothing_is_unpickled_or_evaluated, {"tools/a.py": HEAD + "eval('1')\n"}, "tools/a.py:2:"),
    *(
        (exceptions_are_named, {"tests/a.py": f"try:\n    pass\n{catch}\n    pass\n"}, "a.py:3:")
        for catch in (
            "except:",
            "except Exception:",
            "except BaseException as error:",
            "except (KeyError, Exception):",
            "except* Exception:",
            "except Exception:  # tidy: ",
        )
    ),
    (exceptions_are_named, {"tests/a.py": "with suppress(Exception):\n    pass\n"}, "a.py:1:"),
    (only_tools_print, {"store/a.py": HEAD + "print(1)\n"}, "store/a.py:2:"),
    (only_tools_print, {"tests/a.py": "print(1)\n"}, "tests/a.py:1:"),
    (no_sleep_in_tests, {"tests/a.py": "import time\ntime.sleep(1)\n"}, "tests/a.py:2:"),
    (no_sleep_in_tests, {"tests/a.py": "from time import sleep\n"}, "tests/a.py:1:"),
    (
        files_and_functions_are_short,
        {"store/a.py": HEAD + "x = 1\n" * FILE_LINES_MAX},
        "store/a.py:1:",
    ),
    (
        files_and_functions_are_short,
        {"store/a.py": HEAD + f"class _C:\n  def f(self):\n{LONG_BODY}"},
        "store/a.py:3: _C.f",
    ),
    (docstrings_are_there, {"ctrler/a.py": "x = 1\n"}, "ctrler/a.py:1:"),
    (docstrings_are_there, {"store/a.py": HEAD + "def f(): pass\n"}, "store/a.py:2:"),
    (docstrings_are_there, {"store/a.py": HEAD + "async def f(): pass\n"}, "store/a.py:2:"),
    (docstrings_are_there, {"store/a.py": HEAD + "class C: pass\n"}, "store/a.py:2:"),
    *(
        (no_path_of_one_machine, {"README.md": f"one\n{before}/{folder}/x\n"}, "README.md:2:")
        for folder in ("work", "root", "home/ann")
        for before in ("", "cd ", '"', "=")
    ),
    (no_registry_host, {"Makefile": "a:\n\tpip -i https://" + "pypi." + "org/x\n"}, "Makefile:2:"),
    (nothing_left_for_later, {"store/a.py": HEAD + "# TO" + "DO: later\n"}, "store/a.py:2:"),
    (nothing_left_for_later, {"docs/a.md": "FIX" + "ME\n"}, "docs/a.md:1:"),
]


@pytest.mark.parametrize(("rule", "files", "place"), PLANTS)
def test_a_planted_violation_is_found(rule: Rule, files: Files, place: str, tmp_path: Path) -> None:
    found = rule(plant(tmp_path, files))
    assert len(found) == 1, found
    assert place in found[0]


def test_every_rule_has_a_planted_violation() -> None:
    assert {name_of(rule) for rule, _, _ in PLANTS} == {name_of(rule) for rule in RULES}


def test_a_pure_module_that_is_gone_is_reported(tmp_path: Path) -> None:
    plant(tmp_path, {})
    (tmp_path / "raftlog/log.py").unlink()
    assert pure_modules_are_pure(Tree(tmp_path)) == ["raftlog.log: the rules call it pure, and it is not there"]


def test_a_docstring_does_not_make_a_function_long(tmp_path: Path) -> None:
    contract = '    """' + "Words.\n" * FUNCTION_LINES_MAX + '    """\n'
    tree = plant(tmp_path, {"store/a.py": HEAD + f"def f():\n{contract}    return 1\n"})
    assert files_and_functions_are_short(tree) == []


def test_an_allowed_length_must_be_needed(tmp_path: Path) -> None:
    long = plant(tmp_path / "long", {"store/a.py": HEAD + f"def _f():\n{LONG_BODY}"})
    allowed = {"store/a.py::_f": "a table in code"}
    assert files_and_functions_are_short(long, allowed) == []

    short = plant(tmp_path / "short", {"store/a.py": HEAD + "def _f(): pass\n"})
    assert files_and_functions_are_short(short, allowed) == ["store/a.py::_f: allowed to be long, and is not"]


def test_files_that_git_ignores_are_not_judged(checkout: Tree) -> None:
    assert not any(path.startswith(".venv/") for path in checkout.paths)
    assert "tests/test_tidy.py" in checkout.paths
