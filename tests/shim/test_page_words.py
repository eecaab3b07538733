"""The page's words: one table of two languages, and no sentence anywhere else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest

from shim.errors import ANSWERS, ClientGone
from shim.page import FOLDER
from shim.reading.fields import json_kinds

SCRIPTS = {path.name: path.read_text("utf-8") for path in sorted(FOLDER.glob("*.js")) if path.name != "words.js"}
HTML = (FOLDER / "index.html").read_text("utf-8")
CODES = {answer.code for kind, answer in ANSWERS.items() if kind is not ClientGone}
ATTRIBUTES = ("alt", "aria-label", "content", "placeholder", "title")
NAMES = {"Qwen Image Edit", "PNG", "JPEG", "WebP", "Ctrl", "Enter", "mask.png"}  # the same in every language
CHINESE = re.compile("[\u4e00-\u9fff]")
# A comment, a regular expression, or a string; of these only the last is a group.
TOKEN = re.compile(
    r"//[^\n]*|/\*.*?\*/"
    r"|(?:(?<=\()|(?<== )|(?<=!)|(?<=return ))/(?:\\.|\[(?:\\.|[^\]\\])*\]|[^/\\\n])+/"
    r'|("(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|`(?:\\.|[^`\\])*`)',
    re.DOTALL,
)
SENTENCE = re.compile(r"[A-Za-z]{2,}[,.:]? [A-Za-z]|^\W*[A-Z][a-z]+\W*$|[\u4e00-\u9fff]")
NO_SENTENCES = (  # of the scripts, though they look like some
    *("Enter", "Files", "nothing is "),
    *('-H "Authorization: Bearer $API_KEY"', "Bearer ", "curl -sS "),
)
SHOWN = re.compile(
    r"\b(?:textContent|innerText|innerHTML|ariaLabel|alt|title|placeholder) = [^;]*"
    r"|\b(?:say|alert|setCustomValidity)\([^;]*|\bmark\(\"\w+\", [^;]*"
)
KEYED = re.compile(r'\b(?:words|find|mark|textIn)\([^"()]*"[^"]+"')


def unlike_others(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len(dict(pairs)) == len(pairs), "a key is there twice"
    return dict(pairs)


def table() -> dict[str, list[str]]:
    text = (FOLDER / "words.js").read_text("utf-8")
    words: dict[str, list[str]] = json.loads(
        text[text.index("({") + 1 : text.rindex(")")], object_pairs_hook=unlike_others
    )
    return words


class Texts(HTMLParser):
    """What index.html itself says, and the keys of what it has said."""

    def __init__(self) -> None:
        super().__init__()
        self.inside: list[str] = []
        self.said: set[str] = set()
        self.keys: set[str] = set()
        self.feed(HTML)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside.append(tag)
        if not {("name", "viewport"), ("name", "color-scheme")} & set(attrs):
            self.said |= {value or "" for name, value in attrs if name in ATTRIBUTES}
        self.keys |= {value or "" for name, value in attrs if name.startswith("data-words")}

    def handle_endtag(self, tag: str) -> None:
        while self.inside.pop() != tag:
            pass  # elements without an end

    def handle_data(self, data: str) -> None:
        if "noscript" not in self.inside:
            self.said.add(data.strip())


def literals(script: str) -> Iterator[str]:
    """Of its strings, what they say themselves."""
    for found in TOKEN.finditer(script):
        if found[1]:
            yield re.sub(r"\$\{[^{}]*\}", "", found[1][1:-1])


@pytest.mark.parametrize("key", table())
def test_a_word_is_in_english_and_in_chinese_with_the_same_values(key: str) -> None:
    english, chinese = table()[key]
    assert english.strip() == english != ""
    assert not CHINESE.search(english)
    assert CHINESE.search(chinese)
    assert sorted(re.findall(r"\{(\w+)\}", english)) == sorted(re.findall(r"\{(\w+)\}", chinese))


def test_every_key_that_is_used_is_in_the_table_and_every_other_way_round() -> None:
    used = Texts().keys.union(*(re.findall(r"\bwords\(\"([^\"]+)\"", script) for script in SCRIPTS.values()))
    assert used == {key for key in table() if not key.startswith(("failure.", "refused.", "advice."))}


def test_every_error_that_the_page_can_get_has_a_sentence() -> None:
    assert {key.removeprefix("failure.") for key in table() if key.startswith("failure.")} == CODES
    assert {key.removeprefix("advice.") for key in table() if key.startswith("advice.")} <= CODES


def test_every_field_that_the_page_sends_has_a_sentence_for_its_refusal() -> None:
    written = re.findall(r'fields\.(\w+) =|^  \w+: "(\w+)",$|\b(prompt|size)\b', SCRIPTS["form.js"], re.MULTILINE)
    fields = {name for names in written for name in names if name}
    assert fields <= json_kinds().keys()
    sentences = {key.removeprefix("refused.") for key in table() if key.startswith("refused.")}
    assert sentences == fields | {"image", "images", "mask"}


def test_the_page_itself_says_nothing_but_names() -> None:
    said = {text for text in Texts().said if re.search(r"[A-Za-z]{2}|[\u4e00-\u9fff]", text)}
    assert said == NAMES


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_says_nothing_itself(name: str) -> None:
    said = [
        text for text in literals(SCRIPTS[name]) if SENTENCE.search(text) and not text.startswith(("#", *NO_SENTENCES))
    ]
    assert said == []
    for shown in SHOWN.findall(SCRIPTS[name]):
        assert not [text for text in literals(KEYED.sub("", shown)) if re.search("[A-Za-z]", text)], shown
