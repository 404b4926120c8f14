"""The field's words, which CONTRIBUTING lists: those that must not come back, and how functions are named."""

import ast
import re

import pytest

from tests.helpers import ROOT

# word: what is said instead
FORBIDDEN = {
    r"pictures?": "image",
    r"damaged": "corrupt, invalid or unsupported",
    r"complaints?": "error message",
    r"sentences?": "message",
    r"rhythm": "interval",
    r"settled?": "synchronise, wait for",
    r"strangers?": "others, unknown",
    r"forgive|withdraw(n|ing)?|farewell|patience": "the word of what it does",
    r"bend": "beta of smooth L1",
    r"upside|lying|sideways": "landscape, portrait",
}
TEXTS = (".py", ".md", ".toml", ".yaml", ".js", ".html", ".css", ".txt")
TAKEN = ("# a seed, as recorded", "_IMAGES = (")  # lines with a word that is not ours to choose
ELSEWHERE = {"tests/test_words.py", "LICENSE", "CONTRIBUTING.md", "CHANGELOG.md"}  # they name the words
# A participle is no name of a function: it says neither what is done nor what comes back. These are nouns.
PARTICIPLE = re.compile(r"_?[a-z]+(ed|ing|wn)")
NAMES = {
    "setting",
    "rounding",
    "pasting",
    "saving",
    "training",
    "listing",
    "hatching",
    "greeting",
    "computing",
    "speaking",
}


def tracked():
    """{path from the root: text} of the project's own texts."""
    tops = ("ccnet_jax", "kernels", "configs", "experiments", "tests", "docs")
    paths = [path for top in tops for path in (ROOT / top).rglob("*")] + list(ROOT.glob("*.*"))
    found = {path.relative_to(ROOT).as_posix(): path for path in paths if path.suffix in TEXTS}
    return {name: path.read_text() for name, path in found.items() if name not in ELSEWHERE}


@pytest.mark.parametrize("word", FORBIDDEN)
def test_the_word_does_not_come_back(word):
    pattern = re.compile(rf"(?<![A-Za-z])({word})(?![A-Za-z])", re.IGNORECASE)
    found = [
        f"{name}:{number}: {line.strip()}"
        for name, text in tracked().items()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line) and not any(words in line for words in TAKEN)
    ]
    assert not found, f"say {FORBIDDEN[word]}"


def test_functions_are_named_by_a_verb_or_for_what_they_return():
    found = [
        f"{name}: {node.name}"
        for name, text in tracked().items()
        if name.endswith(".py") and not name.startswith("tests/")
        for parent in ast.walk(ast.parse(text))
        if isinstance(parent, ast.Module | ast.ClassDef)
        for node in parent.body
        if isinstance(node, ast.FunctionDef) and PARTICIPLE.fullmatch(node.name) and node.name not in NAMES
    ]
    assert not found
