"""Texts that users read, and names that developers read, are standard technical English.

The values are the standard names for the words that the patterns match.
"""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("flows", "tasks", "m2ib", "corpora", "sql", "review", "demo", "stores")

REPLACED = {
    r"told|tells? (?:of|people|nobody|everybody)": "notified, reported, described, logged",
    r"\bsaid\b": "described, formatted",
    r"held against|hold(?:s|ing)? .{1,30} against": "compared with",
    r"\bmend(?:s|ed|ing)?\b": "fix",
    r"put up with": "tolerated; name the threshold",
    r"\bwhence\b|\bthereof\b|\bthereupon\b|\bforthwith\b|\bthrice\b|\bnought\b|\bhither\b|\bwherefore\b": "plain words",
    r"befall|befell|befallen": "happens to",
    r"beyond this machine": "on the network",
    r"take the table along": "download",
    r"set aside|kept aside": "failed shard, quarantined",
    r"drawn by (?:a |its )?hash|by hash, drawn": "sampled by hash",
    r"broken off": "timed out",
    r"as it lies|lies there|lie there": "as stored; is placed there",
    r"(?:that|which) (?:is|are) none\b": "invalid",
    r"\bwhat became of\b|\bwhat came of\b": "status, history, result",
    r"found out\b": "detect",
    r"go(?:es)? on with": "resumes",
    r"so many (?:rows|pairs|hours|days)": "number of",
    r"for so long": "for this many hours",
    r"\bamiss\b": "invalid, damaged",
    r"of (?:our|one's) own\b": "custom, separate",
    r"at first sight": "in screening",
    r"looks? at the (?:recurring|stamp)": "attribution concentrates on",
    r"(?:run|model|audit|corpus) at hand\b": "current",
    r"anew\b": "again",
    r"\bnor is\b|\bnor does\b": "split the sentence",
    r"\bby hand\b (?:from|only)": "manually",
    r"ha(?:s|ve) nothing to tell": "holds no information",
    r"\bcolour|\bgrey\b|\bneighbour|\bartefact|\bbehaviour|\bcentre\b|\blabelled\b": "American spelling",
    r"\bscore effects?\b": "score loss",
    r"\bbenign\b(?!')|needs more data": "acceptable, needs data; stored values in quotes",
    r"\bbits (?:per|of each) patch|\b(?:image|text|most) bits\b|\bin bits\b": "nats",
    r"\bnormalis|\brecognis|\bsummaris": "American spelling, with z",
}
PARTICIPLES = re.compile(
    r"^(?:[a-z]+ed|told|said|held|drawn|known|seen|made|given|taken|kept|found|left|sent|written|shown|chosen|begun|gone|"
    r"lost|sought|meant|stuck|hidden|torn|worn|cut_off|thrown|born|worded)$"
)
STANDARD = {"masked", "frozen", "calibrated", "seed", "embed", "feed", "need", "speed"}


def read_texts(path):
    """Return text that is not a docstring: string literals of Python, text of templates, prose of Markdown."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return [re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)", " ", text, flags=re.DOTALL)]
    if path.suffix != ".py":
        return [re.sub(r"\{[{%#].*?[}%#]\}|<!--.*?-->|//.*", " ", text, flags=re.DOTALL)]
    tree = ast.parse(text)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.body[0].value) for node in ast.walk(tree) if isinstance(node, documented) and ast.get_docstring(node)
    }
    docstrings |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in docstrings
        and " " in node.value
    ]


def list_files():
    code = [path for package in PACKAGES for path in (ROOT / package).rglob("*")]
    paths = [path for path in code if path.suffix in {".py", ".j2", ".typ", ".js", ".md", ".toml"}]
    paths += [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("docs/decisions/*.md"),
        ROOT / "prefect.yaml",
        ROOT / "Makefile",
    ]
    return sorted(paths)


@cache
def read_all_texts():
    return [(path.relative_to(ROOT), " ".join(text.split())) for path in list_files() for text in read_texts(path)]


@pytest.mark.parametrize("pattern", REPLACED)
def test_no_text_uses_a_replaced_word(pattern):
    search = re.compile(pattern, re.IGNORECASE)
    matches = [
        f"{path}: {text[max(0, match.start() - 40) : match.end() + 40]!r}"
        for path, text in read_all_texts()
        for match in search.finditer(text)
    ]
    assert not matches, f"use instead: {REPLACED[pattern]}\n" + "\n".join(matches)


def is_property(function):
    return any(
        isinstance(decorator, ast.Name) and decorator.id in {"property", "cached_property"}
        for decorator in function.decorator_list
    )


def test_no_function_is_named_by_a_bare_participle():
    functions = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and PARTICIPLES.match(node.name.lstrip("_"))
        and node.name.lstrip("_") not in STANDARD
        and not is_property(node)
    ]
    assert not functions, "a function is a verb:\n" + "\n".join(functions)


def test_prose_of_markdown_wraps_at_100_characters():
    long_lines = []
    for path in (path for path in list_files() if path.suffix == ".md"):
        text = re.sub(
            r"```.*?```", lambda block: "\n" * block[0].count("\n"), path.read_text(encoding="utf-8"), flags=re.DOTALL
        )
        long_lines += [
            f"{path.relative_to(ROOT)}:{number}"
            for number, line in enumerate(text.splitlines(), start=1)
            if len(line) > 100 and not line.startswith(("|", "![")) and "](" not in line
        ]
    assert not long_lines
