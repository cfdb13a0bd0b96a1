"""The conformance page: every requirement of the drafts is accounted for, and every test it names exists."""

from __future__ import annotations

import ast
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "microwallet" / "guide" / "conformance.md").read_text(encoding="utf-8")
DRAFTS = {
    "draft-httpauth-payment-00": {
        "MUST": 41,
        "MUST NOT": 17,
        "REQUIRED": 2,
        "SHOULD": 33,
        "SHOULD NOT": 3,
        "RECOMMENDED": 2,
    },
    "draft-evm-session-00": {"MUST": 108, "MUST NOT": 17, "REQUIRED": 80, "SHOULD": 20, "RECOMMENDED": 1},
}
"""How often each key word is in a draft, counted there."""
STATES = ["met", "met differently", "not applicable", "not met"]

_ROW = re.compile(
    r"- (?P<first>\d+)(?: to (?P<last>\d+))? (?P<word>[A-Z]+(?: NOT)?) \((?P<who>[a-z, ]+)\), "
    rf"(?P<state>{'|'.join(STATES)}): (?P<text>[^\n]+(?:\n  (?!- )[^\n]+)*)(?P<tests>(?:\n  - \S+::\S+)*)\n"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Some key words of one section, and what the page says of them."""

    section: str
    numbers: range
    word: str
    who: str
    state: str
    text: str
    tests: list[str]


def rows(draft: str) -> list[Row]:
    """The rows of a draft; all of its text must be rows."""
    found = []
    for section in part(draft).split("\n### ")[1:]:
        name, _, body = section.partition("\n")
        assert _ROW.sub("", body + "\n").strip() == "", name
        for match in _ROW.finditer(body + "\n"):
            first = int(match["first"])
            found.append(
                Row(
                    section=name,
                    numbers=range(first, int(match["last"] or first) + 1),
                    word=match["word"],
                    who=match["who"],
                    state=match["state"],
                    text=match["text"],
                    tests=re.findall(r"- (\S+)", match["tests"]),
                )
            )
    return found


def part(title: str) -> str:
    """What stands under a heading of the second level."""
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


FILES = dict(re.findall(r"^\| ([a-z0-9_-]+) \| (tests/\S+) \|$", part("Files"), flags=re.MULTILINE))


def names_in(path: Path) -> set[str]:
    """The tests of a file, those of a class with its name."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".sol":
        return set(re.findall(r"function (\w+)\(", text))
    names = set()
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            names |= {f"{node.name}::{one.name}" for one in node.body if isinstance(one, ast.FunctionDef)}
    return names


@pytest.mark.parametrize("draft", DRAFTS)
def test_every_requirement_is_there(draft):
    """In each section the key words are numbered without a gap, and there are as many as in the draft."""
    sections: dict[str, list[int]] = {}
    words: Counter[str] = Counter()
    for row in rows(draft):
        sections.setdefault(row.section, []).extend(row.numbers)
        words[row.word] += len(row.numbers)
    assert {
        name: numbers for name, numbers in sections.items() if numbers != [*range(1, len(numbers) + 1)]
    } == {}
    assert words == DRAFTS[draft]


def test_the_counts_are_true():
    """The table at the top says how many of each word and of each state there are."""
    lines = re.findall(r"^\| ([A-Za-z ]+) \| (\d+) \| (\d+) \|$", PAGE, flags=re.MULTILINE)
    told = {name: (int(core), int(session)) for name, core, session in lines}
    found = [Counter(), Counter()]
    for count, draft in zip(found, DRAFTS, strict=True):
        for row in rows(draft):
            for name in (row.word, row.state, "all"):
                count[name] += len(row.numbers)
    assert told == {name: (found[0][name], found[1][name]) for name in told}
    assert set(told) >= {*found[0], *found[1]}


@pytest.mark.parametrize("draft", DRAFTS)
def test_every_test_exists(draft):
    """What is met names a test, and all that are named are in the file they are said to be in."""
    known = {alias: names_in(REPOSITORY / path) for alias, path in FILES.items()}
    named = {test for row in rows(draft) for test in row.tests}
    assert [row for row in rows(draft) if row.state == "met" and not row.tests] == []
    missing = [
        test
        for test in sorted(named)
        if test.partition("::")[2] not in known.get(test.partition("::")[0], ())
    ]
    assert missing == []


def test_every_file_is_used():
    """No file is listed for nothing."""
    used = {test.partition("::")[0] for draft in DRAFTS for row in rows(draft) for test in row.tests}
    assert set(FILES) == used


@pytest.mark.parametrize("draft", DRAFTS)
def test_every_row_says_whom_it_concerns(draft):
    """Client, server, escrow, or whoever writes a specification."""
    who = {one for row in rows(draft) for one in row.who.split(", ")}
    assert who <= {"client", "server", "escrow", "specification"}
