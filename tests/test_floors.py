"""The house: which module may import which. A module imports from lower floors and from its own room only.

A room is a folder or a file that has a line here; the longest line that fits a module is its room.
"""

import ast
import pathlib

import pytest

from tests.helpers import ROOT

FLOORS = {
    "kernels": 0,
    "ccnet_jax.common": 1,
    "ccnet_jax.common.errors": 1,
    "ccnet_jax.common.labels": 1,
    "ccnet_jax.common.outputs": 1,
    "ccnet_jax.common.progress": 1,
    "ccnet_jax.common.fields": 1,
    "ccnet_jax.common.version": 1,
    "ccnet_jax.common.compilation_cache": 2,
    "ccnet_jax.common.devices": 2,
    "ccnet_jax.engine.hosts": 2,
    "ccnet_jax.models": 2,
    "ccnet_jax.data": 3,
    "ccnet_jax.figures": 3,
    "ccnet_jax.evaluation": 4,
    "ccnet_jax.tools": 7,
    "ccnet_jax.tools.exporting": 5,
    "ccnet_jax.training": 4,
    "ccnet_jax.config": 5,
    "ccnet_jax.config.config_files": 6,
    "ccnet_jax.tools.costs": 7,
    "ccnet_jax.config.recipes": 6,
    "ccnet_jax.engine": 4,
    "ccnet_jax.tasks": 6,
    "ccnet_jax.tasks.messages": 7,
    "ccnet_jax.config.command_line": 7,
    "ccnet_jax.weights.inference": 7,
    "ccnet_jax.weights": 7,
    "configs": 7,
    "ccnet_jax.config.programs": 7,
    "ccnet_jax.tools.page": 8,
    "ccnet_jax.__main__": 9,
    "ccnet_jax.config.completion": 9,
    "ccnet_jax.config.config_table": 8,
    "ccnet_jax.convert": 8,
    "ccnet_jax.cost": 8,
    "ccnet_jax.demo": 9,
    "ccnet_jax.prepare": 8,
    "ccnet_jax.preview": 8,
    "ccnet_jax.eval": 8,
    "ccnet_jax.export": 8,
    "ccnet_jax.predict": 8,
    "ccnet_jax.share": 8,
    "ccnet_jax.train": 8,
    "ccnet_jax.weights.visualize": 8,
    "ccnet_jax.explore": 9,
    "experiments": 10,
}
# The package's front door imports what notebooks ask for, when they ask for it.
FRONT_DOOR = "ccnet_jax"
# What a room must do without, though a lower floor has it.
FORBIDDEN = {
    "kernels": ["ccnet_jax"],
    "ccnet_jax.common.labels": ["ccnet_jax", "kernels", "cv2", "jax"],
    "ccnet_jax.figures": ["ccnet_jax.models", "kernels", "jax"],
    "ccnet_jax.training": ["cv2", "ccnet_jax.data"],
    "ccnet_jax.evaluation.metrics": ["cv2", "ccnet_jax.data", "jax"],
    "ccnet_jax.models": ["cv2", "ccnet_jax.common.errors"],
}


def modules():
    """{dotted name: path} of every module of the project."""
    paths = [
        path
        for top in ("kernels", "ccnet_jax", "configs", "experiments")
        for path in (ROOT / top).rglob("*.py")
    ]
    return {name_of(path): path for path in paths}


def name_of(path: pathlib.Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = modules()


def room_of(module: str) -> str:
    """The longest line of `FLOORS` that a module's name begins with."""
    if module == FRONT_DOOR:
        return FRONT_DOOR
    rooms = [room for room in FLOORS if module == room or module.startswith(f"{room}.")]
    assert rooms, f"{module} lies in no room: give it a line in FLOORS"
    return max(rooms, key=len)


def imports_of(module: str) -> set[str]:
    """Everything that a module imports, also inside functions: modules of ours, and other packages."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in MODULES else node.module)
    return found


IMPORTS = {module: imports_of(module) for module in MODULES}
OURS = {module: {name for name in found if name in MODULES} for module, found in IMPORTS.items()}


def test_every_room_exists():
    for room in FLOORS:
        assert any(module == room or module.startswith(f"{room}.") for module in MODULES), room


@pytest.mark.parametrize("module", [module for module in MODULES if module != FRONT_DOOR])
def test_a_module_imports_from_lower_floors_and_its_own_room_only(module):
    room = room_of(module)
    for imported in OURS[module]:
        assert imported != FRONT_DOOR, f"{module} imports the front door; name the module that it needs"
        other = room_of(imported)
        if other == room:
            continue
        # the rooms of floor 1 are single files with nothing to hide; all of them may raise and write
        lower = FLOORS[other] < FLOORS[room] or (other == "ccnet_jax.common.errors" and FLOORS[room] == 1)
        assert lower, f"{module} (floor {FLOORS[room]}) imports {imported} (floor {FLOORS[other]})"


def test_no_cycle():
    done, path = set(), []

    def visit(module):
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            path.append(module)
            for imported in sorted(OURS[module] - {module}):
                visit(imported)
            done.add(path.pop())

    for module in MODULES:
        visit(module)


@pytest.mark.parametrize(("room", "forbidden"), FORBIDDEN.items())
def test_a_room_does_not_need_what_it_has_no_use_for(room, forbidden):
    for module in MODULES:
        if module == room or module.startswith(f"{room}."):
            for imported in IMPORTS[module]:
                assert not any(imported == name or imported.startswith(f"{name}.") for name in forbidden), (
                    f"{module} imports {imported}"
                )


def test_a_folder_holds_more_than_one_small_file():
    """A folder with one small file is no room: it belongs into its neighbour."""
    for folder in {path.parent for path in MODULES.values()}:
        lines = [len(path.read_text().splitlines()) for path in folder.rglob("*.py")]
        assert len(lines) > 2 or sum(lines) > 100, folder


def test_nobody_asks_for_a_flavour_by_its_name():
    """What depends on the flavour is a field of `Flavour`."""
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare):
                for side in [node.left, *node.comparators]:
                    named = isinstance(side, ast.Constant) and side.value in ("official", "mmseg")
                    assert not named, f"{module}, line {node.lineno}: compares with {ast.unparse(side)}"


def test_only_the_run_room_builds_paths_in_a_run():
    names = ("config.json", "classes.json", "metrics.jsonl", "versions.json", "runs/latest")
    for module, path in MODULES.items():
        if (
            room_of(module) in ("ccnet_jax.engine", "experiments")
            or module == "ccnet_jax.data.datasets.folder"
        ):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
                assert not any(name in ast.unparse(node) for name in names), f"{module}: {ast.unparse(node)}"
