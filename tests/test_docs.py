"""The manual: its commands exist, its cheap ones are run, its links lead somewhere.

Every block of commands or Python stands below (or above) a comment that says what it needs:

    <!-- run -->                 the block is run here
    <!-- needs: Cityscapes -->   it is only checked: programs, flags, configs, keys and imports exist
"""

import argparse
import ast
import dataclasses
import importlib
import re
import shlex
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml

from ccnet_jax.common.errors import UserError
from ccnet_jax.config import config as configuration
from ccnet_jax.config import config_files
from ccnet_jax.config.config_files import ConfigName
from ccnet_jax.config.programs import PROGRAMS
from ccnet_jax.data.datasets import DATASETS
from ccnet_jax.data.sources import Location
from ccnet_jax.engine.hosts.config import HostsConfig
from ccnet_jax.engine.hosts.place import Place, find_place
from ccnet_jax.models.config import build_network
from ccnet_jax.training.losses import LOSSES
from ccnet_jax.training.optimizers import build_optimizer
from ccnet_jax.training.upsampled import UpsampledLogits
from tests.helpers import ROOT
from tests.miniatures import write
from tests.test_floors import FLOORS

pytestmark = pytest.mark.slow

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
HOSTS = ROOT / "docs" / "hosts.md"
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
MARK = re.compile(r"<!-- (run|needs: [^>]+) -->")
SHELL = ("sh", "bash", "console", "shell")
# What is not ours to check: everybody's shell has them.
OTHERS = (
    "source",
    "cd",
    "git",
    "pip",
    "docker",
    "ls",
    "cp",
    "mv",
    "mkdir",
    "unzip",
    "tar",
    "tensorboard",
    "xprof",
    "rm",
)


@dataclasses.dataclass(frozen=True)
class Block:
    """A block of code in a page; `mark` is what its comment says, None where it has none."""

    page: str
    line: int
    language: str
    text: str
    mark: str | None

    def __str__(self):
        return f"{self.page}:{self.line}"


def blocks_of(page):
    """The fenced and the indented blocks of a page."""
    lines = page.read_text().splitlines()
    found, i = [], 0
    while i < len(lines):
        begin = i
        if fence := re.match(r"\s*```(\w*)", lines[i]):
            end = next(j for j in range(i + 1, len(lines)) if lines[j].strip() == "```")
            language, inside, i = fence[1], lines[i + 1 : end], end + 1
        elif lines[i].startswith("    ") and (i == 0 or not lines[i - 1].strip()) and not in_list(lines, i):
            while i < len(lines) and (lines[i].startswith("    ") or not lines[i].strip()):
                i += 1
            inside = [line[4:] for line in lines[begin:i]]
            commands = any(line.startswith(("python -m ", "make ", "bash ")) for line in inside)
            language = "sh" if commands else "text"
        else:
            i += 1
            continue
        before = next((line for line in reversed(lines[:begin]) if line.strip()), "")
        after = next((line for line in lines[i:] if line.strip()), "")
        mark = MARK.fullmatch(before.strip()) or MARK.fullmatch(after.strip())
        name = str(page.relative_to(ROOT))
        found.append(Block(name, begin + 1, language, "\n".join(inside), mark and mark[1]))
    return found


def in_list(lines, i):
    """Whether the indented line belongs to an item of a list."""
    above = next((line for line in reversed(lines[:i]) if line.strip() and line[0] != " "), "")
    return bool(re.match(r"([*-]|\d+\.) ", above))


BLOCKS = [block for page in PAGES for block in blocks_of(page) if block.language in (*SHELL, "python")]


def commands_of(text):
    """Every command of a shell block as its words, without comments, prompts and variables."""
    for line in text.replace("\\\n", " ").splitlines():
        line = re.sub(r"\s>\s(\"[^\"]*\"|\S+)", "", line.removeprefix("$ "))  # where output goes
        for part in re.split(r"\s(?:&&|\|)\s", line):
            words = shlex.split(part, comments=True)
            if words and words[0] in ("srun", "mpirun"):
                words = words[words.index("python") :]
            while words and (re.fullmatch(r"[A-Z_]+=.*", words[0]) or words[0] in ("time", "env")):
                words = words[1:]
            if words:
                yield words


def check_command(words):
    """Assert that the program, its flags and its config exist."""
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        for target in words[1:]:
            assert target in targets or "=" in target, f"the Makefile has no target {target}"
    elif re.fullmatch(r"(.*/)?python(3[.\d]*)?", words[0]):
        if words[1] == "-m":
            check_program(words[2], words[3:])
        elif words[1] == "-c":
            ast.parse(words[2])
        else:
            assert (ROOT / words[1]).is_file(), f"there is no file {words[1]}"
    elif words[0] == "ccnet":
        if words[1:]:
            assert words[1] in PROGRAMS, f"there is no program {words[1]}"
            check_program(PROGRAMS[words[1]][0], words[2:])
    elif words[0] in ("bash", "sh"):
        assert (ROOT / words[1]).is_file(), f"there is no file {words[1]}"
    else:
        assert words[0].rpartition("/")[2] in (*OTHERS, "ruff", "pytest"), f"{words[0]} is no known program"


def check_program(name, arguments):
    if name in ("pytest", "pip", "venv", "ruff", "jupyter"):
        for path in arguments:
            if path.startswith("tests/"):
                assert (ROOT / path.split("::")[0]).exists(), f"there is no {path}"
        return
    assert any((ROOT / f"{name.replace('.', '/')}{end}").is_file() for end in (".py", "/__main__.py")), (
        f"there is no program {name}"
    )
    arguments = [word for word in (word.strip("[]") for word in arguments) if word not in ("...", "")]
    overrides = [word for word in arguments if word.startswith("--config.")]
    arguments = [word for word in arguments if word not in overrides]
    if not name.startswith("ccnet_jax"):  # kernels and experiments: importing them may start JAX for a GPU
        known = flags_of(name)
        for word in arguments:
            assert not word.startswith("--") or word.split("=")[0] in known, f"{name} has no flag {word}"
        return
    try:
        parsed = argparse.ArgumentParser.parse_args(parser_of(name), arguments)
    except SystemExit:
        raise AssertionError(f"{name} does not take {shlex.join(arguments)}") from None
    if hasattr(parsed, "config"):
        check_config(parsed.config or getattr(parsed, "named", None), overrides)


def check_config(name, overrides):
    """Assert that the config and the keys exist and go together; a file of the reader's own is not there."""
    theirs = name is None or name.isupper() or (name.endswith(".py") and not (ROOT / name).exists())
    values = configuration.default() if theirs else config_files.load(ConfigName.of(in_the_house(name)))
    changes = dict(word.removeprefix("--config.").partition("=")[::2] for word in overrides)
    changes.pop("KEY", None)  # stands for any
    own_parts = theirs and name is not None  # such a file may register what a key names
    try:
        configuration.parse(values, changes, made_elsewhere=own_parts)
    except UserError as error:
        raise AssertionError(f"--config {name} {overrides}: {error}") from None


def check_key(name, text):
    """Assert that the key exists and takes the value, whatever the rest of the config is."""
    key = configuration.KEYS[name]
    example = text.isupper()  # as FOLDER
    assert example or key.problem(configuration.value_from_text(text, name)) is None, (
        f"{name} takes no {text}"
    )


def in_the_house(name):
    """A config's path in the repository as a path from anywhere."""
    return str(ROOT / name) if (ROOT / name.split(":")[0]).is_file() else name


def parser_of(name):
    """The parser of one of our programs."""

    module = name if (ROOT / f"{name.replace('.', '/')}.py").is_file() else f"{name}.__main__"
    return importlib.import_module(module).flags()


def flags_of(name):
    """The flags that a program's file defines, without starting it."""
    path = ROOT / name.replace(".", "/")
    path = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    found = {"--help"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant) and ast.unparse(node.func).endswith("add_argument"):
                    found.add(argument.value)
    return found


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_every_block_says_what_it_needs(block):
    assert block.mark, f"{block}: write <!-- run --> or <!-- needs: SOMETHING --> above the block"


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language in SHELL], ids=str)
def test_commands_exist(block):
    for words in commands_of(block.text):
        try:
            check_command(words)
        except AssertionError as error:
            raise AssertionError(f"{block}: {error}") from None


def test_the_script_for_slurm_starts_a_program_that_exists():
    text = next(block.text for block in blocks_of(HOSTS) if "#SBATCH" in block.text).replace("\\\n", " ")
    (line,) = (line for line in text.splitlines() if line.startswith("srun "))
    for words in commands_of(line):
        check_command(words)


def test_the_pods_of_the_job_for_kubernetes_meet(monkeypatch):
    text = next(block.text for block in blocks_of(HOSTS) if block.language == "yaml")
    service, job = yaml.safe_load_all(text)
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    check_command([*container["command"], *container["args"]])
    assert {mount["name"] for mount in container["volumeMounts"]} == {x["name"] for x in pod["volumes"]}
    for variable in container["env"]:
        field = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath", "")
        value = "1" if field.endswith("job-completion-index']") else variable["value"]
        monkeypatch.setenv(variable["name"], value)
    first = f"{job['metadata']['name']}-0.{pod['subdomain']}"  # as Kubernetes names it
    assert find_place(HostsConfig()) == Place(f"{first}:12345", job["spec"]["completions"], 1)
    assert pod["subdomain"] == service["metadata"]["name"]


@pytest.mark.parametrize("name", NAMES)
def test_commands_inside_text_exist(name):
    text = re.sub(r"```.*?```", "", (ROOT / name).read_text(), flags=re.DOTALL)
    text = re.sub(r"^.*\[all numbers\]\(.*$", "", text, flags=re.MULTILINE)  # what was run, at its commit
    for words in re.findall(r"`((?:python -m |make |--config\.)[^`]+)`", text):
        try:
            if words.startswith("--config."):
                for word in shlex.split(words):
                    key, equals, text = word.removeprefix("--config.").partition("=")
                    if equals and key != "KEY":
                        check_key(key, text)
            else:
                check_command(shlex.split(words))
        except AssertionError as error:
            raise AssertionError(f"{name}: `{words}`: {error}") from None


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language in SHELL and b.mark == "run"], ids=str)
def test_cheap_commands_run(block, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for words in commands_of(block.text):
        assert words[:2] == ["python", "-m"], f"{block}: only programs of ours are run"
        name = words[2] if (ROOT / f"{words[2].replace('.', '/')}.py").is_file() else f"{words[2]}.__main__"
        monkeypatch.setattr(sys, "argv", [words[2], *map(in_the_house, words[3:])])
        code = 0
        try:
            importlib.import_module(name).main()
        except SystemExit as ended:  # --help ends so
            code = ended.code
        assert not code, f"{block}: {capsys.readouterr().err}"
        assert capsys.readouterr().out.strip(), f"{block}: {shlex.join(words)} prints nothing"


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "python"], ids=str)
def test_python(block, tmp_path, monkeypatch, registries):
    tree = ast.parse(block.text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in (
            "ccnet_jax",
            "kernels",
            "configs",
        ):
            module = importlib.import_module(node.module)
            for alias in node.names:
                here = hasattr(module, alias.name) or importlib.util.find_spec(f"{node.module}.{alias.name}")
                assert here, f"{block}: {node.module} has no {alias.name}"
    if block.mark != "run":
        return
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "example"}
    exec(compile(tree, str(block), "exec"), names)
    if "get_config" in names:
        check_parts(configuration.parse(names["get_config"]()))


def check_parts(config):
    """Assert that the network, the loss and the optimizer of a config can be built and used."""
    network = build_network(config.model, 3)
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.uint8)
    (logits, _), variables = jax.eval_shape(network.init_with_output, jax.random.key(0), images)
    assert logits.shape == (1, 64, 64, 3)
    logits, labels = UpsampledLogits(jnp.zeros((1, 2, 2, 3))), jnp.zeros((1, 8, 8), jnp.int32)
    loss = LOSSES[config.loss.name](config.loss)(logits, labels)
    assert np.isfinite(loss.value)
    jax.eval_shape(build_optimizer(config.optimizer, 10).init, variables["params"])


def test_the_data_set_of_the_example_reads_its_layout(tmp_path, registries):
    for split in ("train", "val"):
        write(tmp_path / "photos" / split / "a.jpg", np.zeros((64, 96, 3), np.uint8))
        write(tmp_path / "masks" / split / "a.png", np.full((64, 96), 2, np.uint8))
    block = next(block for block in BLOCKS if 'DATASETS["fields"]' in block.text)
    exec(compile(block.text, str(block), "exec"), {"__name__": "example"})
    source = DATASETS["fields"].open(Location(dir=str(tmp_path)), "val")
    assert source.classes[source[0]["label"][0, 0]] == "weed"
    (tmp_path / "masks" / "val" / "a.png").unlink()
    with pytest.raises(UserError, match=r"a.jpg has no label .*a.png"):
        DATASETS["fields"].open(Location(dir=str(tmp_path)), "val")


@pytest.fixture
def registries():
    """Takes out again what an example adds to the dictionaries of parts."""
    places = {
        "ccnet_jax.data.datasets": "DATASETS",
        "ccnet_jax.models.backbones": "BACKBONES",
        "ccnet_jax.models.contexts": "CONTEXTS",
        "ccnet_jax.tasks": "TASKS",
        "ccnet_jax.tasks.callbacks": "CALLBACKS",
        "ccnet_jax.training.losses": "LOSSES",
        "ccnet_jax.training.optimizers": "OPTIMIZERS",
        "ccnet_jax.training.schedules": "SCHEDULES",
        "kernels.criss_cross": "IMPLEMENTATIONS",
    }
    tables = [getattr(importlib.import_module(module), name) for module, name in places.items()]
    before = [dict(table) for table in tables]
    yield
    for table, members in zip(tables, before, strict=True):
        table.clear()
        table.update(members)


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
    text = re.sub(r"```.*?```", "", (ROOT / name).read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, heading = target.partition("#")
        page = (ROOT / name).parent / path if path else ROOT / name
        assert page.exists(), f"{name} links to {target}, which does not exist"
        if heading:
            assert heading in anchors_of(page.read_text()), f"{name} links to {target}: no such heading"


def anchors_of(text):
    """The anchors that GitHub makes of headings."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 250


def test_both_front_pages_name_every_page():
    front, manual = (ROOT / "README.md").read_text(), (ROOT / "docs/README.md").read_text()
    for page in (ROOT / "docs").glob("[a-z]*.md"):
        assert f"(docs/{page.name})" in front
        assert f"({page.name})" in manual


def test_the_image_of_the_house_has_every_room_on_its_floor():
    image = (ROOT / "CONTRIBUTING.md").read_text().split("```text\nfloor\n")[1].split("```")[0]
    floors = re.split(r"^  (\d+) +", image, flags=re.MULTILINE)[1:]
    drawn = dict(zip(map(int, floors[::2]), floors[1::2], strict=True))
    for room, floor in FLOORS.items():
        assert room.rpartition(".")[2] in re.findall(r"\w+", drawn[floor]), f"{room} on floor {floor}"
