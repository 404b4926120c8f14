"""The house: which module may import which. A module imports from lower floors and from its own room only.

A room has a line in `FLOORS`; the longest line that fits a module is its room. Rooms of one floor do not
import one another.
"""

import ast
import pathlib
import re

import pytest

from tests.helpers import ROOT, fresh_python

FLOORS = {
    "kernels": 0,
    "ccnet_jax.common": 1,
    "ccnet_jax.models": 2,
    "ccnet_jax.data": 2,
    "ccnet_jax.figures": 2,
    "ccnet_jax.engine": 2,
    "ccnet_jax.training": 3,
    "ccnet_jax.evaluation": 3,
    "ccnet_jax.config": 4,
    "configs": 4,
    "ccnet_jax.tasks": 5,
    "ccnet_jax.weights": 6,
    "ccnet_jax.tools": 7,
    "ccnet_jax": 8,  # the programs, and the front door
    "experiments": 8,
}
# The package's front door imports what notebooks ask for, when they ask for it; nobody here imports it.
FRONT_DOOR = "ccnet_jax"
# (who imports, what): imports between rooms of one floor that stay, and why.
EXCEPTIONS = {
    ("configs", "ccnet_jax.config"): "a config starts from the default or a recipe",
    ("experiments.data_throughput", "ccnet_jax.prepare"): "it measures what the program wrote",
    ("experiments.published_scores", "ccnet_jax.convert"): "it runs the two programs, in one process",
    ("experiments.published_scores", "ccnet_jax.eval"): "it runs the two programs, in one process",
}
MOST_AT_THE_TOP = 16  # Python files in ccnet_jax/ itself
KINDS = ("Model", "InstanceModel", "Prediction", "Instances")  # of the tasks: nobody else tells them apart
# What a room must do without, though a lower floor has it.
FORBIDDEN = {
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


def is_in(module: str, room: str) -> bool:
    """Whether a module is the room, or lies in it."""
    return module == room or module.startswith(f"{room}.")


def room_of(module: str) -> str:
    """The longest line of `FLOORS` that a module's name begins with."""
    rooms = [room for room in FLOORS if is_in(module, room)]
    assert rooms, f"{module} lies in no room: give it a line in FLOORS"
    return max(rooms, key=len)


def imports_of(module: str) -> set[str]:
    """Everything that a module imports, also inside functions: modules of ours, and other packages."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = absolute_name(node, module)
            for alias in node.names:
                whole = f"{source}.{alias.name}"
                found.add(whole if whole in MODULES else source)
    return found


def absolute_name(node: ast.ImportFrom, module: str) -> str:
    """What a module imports from. `kernels` imports itself relatively: installed, it has another name."""
    relative = is_in(module, "kernels") and (node.level or node.module.partition(".")[0] == "kernels")
    assert bool(node.level) == bool(relative), f"{module}, line {node.lineno}: {ast.unparse(node)}"
    package = module.split(".") if MODULES[module].name == "__init__.py" else module.split(".")[:-1]
    above = package[: len(package) - node.level + 1] if node.level else []
    return ".".join([*above, *([node.module] if node.module else [])])


IMPORTS = {module: imports_of(module) for module in MODULES}
OURS = {module: {name for name in found if name in MODULES} for module, found in IMPORTS.items()}


def test_every_room_exists():
    for room in FLOORS:
        assert any(is_in(module, room) for module in MODULES), room


def test_a_folder_of_the_package_is_a_room():
    for module, path in MODULES.items():
        if room_of(module) == FRONT_DOOR:
            assert path.parent == ROOT / "ccnet_jax", f"give {module}'s folder a line in FLOORS"


def test_few_files_lie_at_the_top():
    assert len(list((ROOT / "ccnet_jax").glob("*.py"))) <= MOST_AT_THE_TOP


def is_exception(module: str, imported: str) -> bool:
    return any(is_in(module, who) and is_in(imported, what) for who, what in EXCEPTIONS)


@pytest.mark.parametrize("module", [module for module in MODULES if module != FRONT_DOOR])
def test_a_module_imports_from_lower_floors_and_its_own_room_only(module):
    room = room_of(module)
    for imported in OURS[module]:
        assert imported != FRONT_DOOR, f"{module} imports the front door; name the module that it needs"
        other = room_of(imported)
        lower = other == room or FLOORS[other] < FLOORS[room] or is_exception(module, imported)
        assert lower, f"{module} (floor {FLOORS[room]}) imports {imported} (floor {FLOORS[other]})"


@pytest.mark.parametrize(("who", "what"), EXCEPTIONS)
def test_an_exception_is_one(who, what):
    assert any(is_in(imported, what) for module in MODULES if is_in(module, who) for imported in OURS[module])


def test_kernels_imports_nothing_of_the_project_but_itself():
    ours = ("ccnet_jax", "configs", "experiments", "tests")
    for module in MODULES:
        if is_in(module, "kernels"):
            assert not any(imported.partition(".")[0] in ours for imported in IMPORTS[module]), module


def test_two_files_of_the_package_know_the_name_of_kernels():
    """Installed it has another: `common/kernels.py` knows both, and so does the file that users copy."""
    knowing = {x for x in MODULES if is_in(x, "ccnet_jax") and any(is_in(y, "kernels") for y in IMPORTS[x])}
    assert knowing == {"ccnet_jax.common.kernels", "ccnet_jax.models.criss_cross"}


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
        if is_in(module, room):
            for imported in IMPORTS[module]:
                assert not any(is_in(imported, name) for name in forbidden), f"{module} imports {imported}"


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


def test_only_the_tasks_know_which_task_it_is():
    """What depends on the task is a part of `Task`, or of what its `model` gives."""
    for module, path in MODULES.items():
        if is_in(module, "ccnet_jax") and not is_in(module, "ccnet_jax.tasks"):
            for node in ast.walk(ast.parse(path.read_text())):
                asked = names_asked(node) & {"semantic", "instance", *KINDS}
                assert not asked, f"{module}, line {node.lineno}: {ast.unparse(node)}"
    for path in (ROOT / "ccnet_jax").rglob("*.js"):
        assert not re.search(r"""["'](semantic|instance)["']""", path.read_text()), path


def names_asked(node: ast.AST) -> set[str]:
    """The texts that a comparison, a key or a case has, and the classes of an `isinstance`."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
        return {x.id for x in ast.walk(node.args[1]) if isinstance(x, ast.Name)}
    if isinstance(node, ast.Subscript):
        node = node.slice
    elif not isinstance(node, ast.Compare | ast.MatchValue):
        return set()
    return {x.value for x in ast.walk(node) if isinstance(x, ast.Constant) and isinstance(x.value, str)}


def test_only_the_engine_builds_paths_in_a_run():
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


def test_training_is_a_story_on_a_page():
    tree = ast.parse(MODULES["ccnet_jax.train"].read_text())
    assert sum(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.walk(tree)) <= 20
    (train,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "train")
    assert train.end_lineno - train.lineno < 80
    assert not any(isinstance(node, ast.FunctionDef) for node in ast.walk(train) if node is not train)


def test_nothing_changes_at_import():
    """Handlers of signals, the collector, JAX, Orbax, logging and the environment are the user's."""
    code = f"""if True:
        import gc, importlib, logging, os, signal, sys, threading
        import absl.logging, cv2, flax, jax, orbax.checkpoint as ocp  # what they do themselves is theirs

        def state():
            return {{
                "signals": {{number: str(signal.getsignal(number)) for number in signal.valid_signals()}},
                "collector": (gc.isenabled(), gc.get_threshold(), gc.get_freeze_count()),
                "environment": dict(os.environ),
                "loggers": {{name: logging.getLogger(name).level for name in ("root", "absl", "jax")}},
                "hooks": (sys.excepthook, sys.unraisablehook, threading.excepthook, sys.displayhook),
                "threads": threading.active_count(),
                "orbax": vars(ocp.type_handlers.get_type_handler(jax.Array)).get("_use_replica_parallel"),
                "jax": dict(jax.config.values),
                "cv2": cv2.getNumThreads(),
            }}

        before = state()
        for module in {sorted(name for name in MODULES if name.startswith(("kernels", "ccnet_jax")))}:
            if not module.endswith("__main__") and not module.endswith("saved_model"):  # TensorFlow's own
                importlib.import_module(module)
        after = state()
        print({{name: (before[name], after[name]) for name in before if before[name] != after[name]}})
    """
    assert fresh_python("-c", code).strip() == "{}"
