"""The shape of the program, read from its syntax trees: imports point down and stand at the top; no state, no eval."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "vmnet_hooks"
FILES = sorted(PACKAGE.rglob("*.py"))
WINGS = (
    *("errors", "values", "model", "links", "services", "networks", "declared", "records", "kernel", "engine"),
    *("frontends", "hook", "agent", "graph", "importing", "cli"),
)
"""Bottom first: a wing imports from those before it, and from itself."""
PURE = ("errors", "values", "model", "links", "services", "networks", "declared", "graph")
# What the pure wings must not import.
BANNED = frozenset(
    "os sys time datetime random socket subprocess pathlib sqlite3 pyroute2 ctypes lxml click shutil tempfile "
    "threading asyncio syslog".split()
)
# What the package's own file defines.
OWN_NAMES = ("__init__", "__version__", "CONFIGURATION", "RUN", "STATE")
RANK = {wing: rank for rank, wing in enumerate(WINGS)}
# What runs other programs, and why: see their docstrings.
PROGRAMS = (
    *("frontends/xen.py", "frontends/xen_diversion.py", "frontends/xen_network.py", "frontends/xenstore.py"),
    *("kernel/dnsmasq.py", "kernel/iproute2.py", "kernel/nsupdate.py", "kernel/other_firewalls.py"),
)
each_file = pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))


def module_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def ours(path: Path) -> list[tuple[int, str]]:
    """(line, top module) of every import from this package; import_module("vmnet_hooks.x") counts."""
    package = ["vmnet_hooks", *path.relative_to(PACKAGE).parts[:-1]]
    found = []
    for node in ast.walk(tree(path)):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base += node.module.split(".") if node.module else []
            names = [".".join(base)] if len(base) > 1 else [".".join([*base, alias.name]) for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "import_module" and node.args:
            text = node.args[0]
            text = text.values[0] if isinstance(text, ast.JoinedStr) else text
            names = [str(text.value)] if isinstance(text, ast.Constant) else []
        for name in names:
            parts = name.strip(".").split(".")
            if parts[0] == "vmnet_hooks" and len(parts) > 1:
                found.append((node.lineno, parts[1]))
    return found


def test_every_module_is_in_a_wing():
    assert {module_of(path) for path in FILES} - {"__init__"} == set(WINGS)


@each_file
def test_imports_point_down(path):
    if path == PACKAGE / "__init__.py":
        assert not ours(path)
        return
    here = module_of(path)
    for line, module in ours(path):
        if module in OWN_NAMES:
            continue
        assert RANK[module] <= RANK[here], f"{path}:{line}: {here} imports {module} from above"


def test_the_house_is_low():
    """Few wings stand on one another: what is in between can be read without the rest."""
    below = {wing: set() for wing in WINGS}
    for path in FILES:
        if path != PACKAGE / "__init__.py":
            below[module_of(path)] |= {m for _, m in ours(path) if m in RANK and m != module_of(path)}
    height: dict[str, int] = {}
    for wing in WINGS:
        height[wing] = 1 + max((height[other] for other in below[wing]), default=0)
    assert max(height.values()) <= 9, height


def test_the_pure_wings_touch_nothing():
    """Pure: no clock, no processes, no kernel. Only the configuration reads files."""
    for path in FILES:
        if module_of(path) in PURE:
            allowed = {"os"} if path.stem == "configuration" else set()
            for node in ast.walk(tree(path)):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
                for name in names:
                    top = name.split(".")[0]
                    assert top not in BANNED - allowed, f"{path}:{node.lineno}: {top}"


@each_file
def test_only_the_edge_knows_the_libraries(path):
    where = {
        "pyroute2": "kernel",
        "ctypes": "kernel",
        "sqlite3": "records",
        "lxml": ("frontends", "importing"),
        "libvirt": "frontends",
        "click": ("agent", "cli"),
    }
    for node in ast.walk(tree(path)):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        for name in names:
            if owner := where.get(name.split(".")[0]):
                owners = owner if isinstance(owner, tuple) else (owner,)
                assert module_of(path) in owners, f"{path}:{node.lineno}: {name} belongs to {owner}"


@each_file
def test_imports_stand_at_the_top_or_say_why_not(path):
    """What is rarely needed is imported where it is needed, with the reason beside it or above; imports in a row share one."""
    lines = path.read_text().splitlines()
    for function in (n for n in ast.walk(tree(path)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)):
        imports = {node.end_lineno: node for node in ast.walk(function) if isinstance(node, ast.Import | ast.ImportFrom)}
        for node in imports.values():
            first = node
            while before := imports.get(first.lineno - 1):
                first = before
            beside, above = lines[node.lineno - 1], lines[first.lineno - 2]
            assert "# " in beside or above.lstrip().startswith("# "), f"{path}:{node.lineno}: an import without a reason"


REGISTRIES = (
    "model/kind.py",
    "model/objects/__init__.py",
    "frontends/front_end.py",
    "kernel/objects/__init__.py",
    "cli/__init__.py",
)
# Libraries that are loaded by parts (pyroute2), or are not in Python's path (Xen's binding).
LIBRARIES = ("kernel/rtnl.py", "frontends/xenstore.py")


def test_only_registries_load_by_name():
    """What is looked up by a name in data is a row of a registry."""
    found = {str(path.relative_to(PACKAGE)) for path in FILES if "import_module(" in path.read_text()}
    assert found == {*REGISTRIES, *LIBRARIES}


MODE_BY_NAME = re.compile(r"\bmode (==|!=|in)\b.*|\.mode\b.*(==|!=)")


@each_file
def test_a_mode_is_asked_and_not_compared(path):
    """What differs between modes is a method or an attribute of the mode."""
    if module_of(path) != "networks":
        assert not MODE_BY_NAME.search(path.read_text())


@each_file
def test_no_mutable_state_in_modules(path):
    """What is assigned in a module is a constant: no list, dict or set that anything changes, no `global`."""
    root = tree(path)
    for node in ast.walk(root):
        assert not isinstance(node, ast.Global | ast.Nonlocal), f"{path}:{node.lineno}: global"
    names = {}
    for node in root.body:
        if isinstance(node, ast.Assign):
            names |= {t.id: node for t in node.targets if isinstance(t, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names[node.target.id] = node
    changing = {
        "append",
        "extend",
        "insert",
        "add",
        "update",
        "pop",
        "popitem",
        "remove",
        "clear",
        "setdefault",
        "discard",
        "sort",
    }
    for node in ast.walk(root):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
            if node.func.value.id in names and node.func.attr in changing and node.func.value.id.lstrip("_").isupper():
                pytest.fail(f"{path}:{node.lineno}: {node.func.value.id} is changed")
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del) and isinstance(node.value, ast.Name):
            assert not (node.value.id in names and node.value.id.lstrip("_").isupper()), f"{path}:{node.lineno}"
    for name, node in names.items():
        if isinstance(node.value, ast.List | ast.Set | ast.ListComp | ast.SetComp) and name != "__all__":
            pytest.fail(f"{path}:{node.lineno}: {name} is mutable; use a tuple or a frozenset")


@each_file
def test_no_shell_and_no_eval(path):
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            assert name not in ("eval", "exec", "compile", "__import__", "system", "popen") or (
                isinstance(node.func, ast.Attribute) and getattr(node.func.value, "id", "") == "re"
            ), f"{path}:{node.lineno}: {name}"
            for keyword in node.keywords:
                assert keyword.arg != "shell", f"{path}:{node.lineno}: shell"
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] + [getattr(node, "module", "") or ""]
            assert not {"pickle", "marshal", "shelve"} & set(names), f"{path}:{node.lineno}"
            assert "subprocess" not in names or str(path.relative_to(PACKAGE)) in PROGRAMS, f"{path}:{node.lineno}"


@each_file
def test_files_are_short_and_say_what_they_are(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 620, "split it"
    assert ast.get_docstring(tree(path)), "what is this file for?"
    assert not any(word in path.stem for word in ("util", "helper", "manager", "common", "misc"))


def test_the_registries_are_free_of_imports():
    """Every hook reads it, ignored calls included."""
    root = tree(PACKAGE / "frontends" / "__init__.py")
    assert not [n for n in ast.walk(root) if isinstance(n, ast.Import | ast.ImportFrom)]
    assert not ours(PACKAGE / "__init__.py")
