"""The request that `microwallet fetch` makes of its flags."""

from __future__ import annotations

import httpx
import pytest

from microwallet.cli.fetch_request import check_units, wanted
from microwallet.errors import UsageError


def field(text):
    """What a field of a form becomes: file name, content and type."""
    [(name, sent)] = wanted(["http://x"], [], [], [text]).files
    assert name == "a"
    return sent


@pytest.mark.parametrize(
    ("text", "content", "kind"),
    [
        ("a=1", b"1", None),
        ("a=", b"", None),
        ("a=1;b=2", b"1;b=2", None),
        ("a=<p>;type=text/html", b"from a file\n", "text/html"),
        ("a=1;type=text/html; charset=utf-8", b"1", "text/html; charset=utf-8"),
        ('a="<p>"', b"<p>", None),
        ('a="@p";type=text/plain', b"@p", "text/plain"),
        (r'a="say \"1\\2\";type=x"', rb'say "1\2";type=x', None),
        ('a="1" and "2"', b'"1" and "2"', None),
        ("a=<p>", b"from a file\n", None),
    ],
)
def test_a_field_of_a_form_is_what_curl_makes_of_it(text, content, kind, tmp_path, monkeypatch):
    """A text, in quotes where it would mean something else, or the text of a file; with a type."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p>").write_text("from a file\n")
    assert field(text) == (None, content, kind)


@pytest.mark.parametrize(
    "text",
    ["a=1;type=", "a=1;type=x", "a=@p;type=", "a=<p;type=/x", "a=@p;type=x y/z", "a=1;type=x/y\r\nX: z"],
)
def test_a_type_that_is_none(text, tmp_path, monkeypatch):
    """It is refused, before anything is read or sent."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="of the form's field a is no content type") as refused:
        field(text)
    assert refused.value.hint == f"-F '{text.partition(';')[0]};type=text/plain'"


def test_a_field_without_its_file():
    """The file is named, and how a text is sent that begins as one."""
    with pytest.raises(UsageError, match="nowhere") as refused:
        field("a=<nowhere")
    assert refused.value.hint == "-F 'a=\"<nowhere\"'  (the text itself)"


@pytest.mark.parametrize("word", ["X-Trace:1", "q=tea", "q==tea"])
def test_what_stands_behind_the_url_is_no_url_that_lacks_a_scheme(word):
    """As other clients write a header or a field of data: the flags that do it are named."""
    with pytest.raises(UsageError, match=f"'{word}' stands behind the URL") as refused:
        wanted(["https://shop.example/tea", word], [], [], [])
    assert refused.value.hint == '-H "NAME: VALUE" sends a header, -d NAME=VALUE data'


def built(*headers, data=(), form=()):
    """The request that these words of -H make."""
    with httpx.Client() as client:
        return wanted(["http://x"], headers, data, form).build(client, {})


@pytest.mark.parametrize("name", ["User-Agent", "accept", "Accept-Encoding", "Connection", "X-Of-Nobody"])
def test_a_header_without_a_value_is_left_out(name):
    """As curl and HTTPie have it; a semicolon in place of the colon sends it empty."""
    assert name not in built(f"{name}:").headers
    assert built(f"{name};").headers[name] == ""
    assert built(f"{name}: ", f"{name}: 1").headers[name] == "1"


def test_a_body_without_its_type():
    """The type that goes with data or a form is left out too, and the form stays the same each time."""
    assert "content-type" not in built("Content-Type:", data=["a=1"]).headers
    first, second = (built("Content-Type:", form=["a=1"]) for _ in range(2))
    assert "content-type" not in first.headers
    assert first.content == second.content


@pytest.mark.parametrize("name", ["Host", "content-length"])
def test_a_header_that_cannot_be_left_out(name):
    """It is refused, empty too: no server could read the request."""
    for text in (f"{name}:", f"{name};"):
        with pytest.raises(UsageError, match=f"{name} is set by microwallet") as refused:
            built(text)
        assert refused.value.hint == "leave it out"


@pytest.mark.parametrize("words", [["get", "http://x"], ["http://x"], ["PATCH", "http://x"]])
def test_a_method_is_no_unit(words):
    """Beside an amount without one, which is in the default asset."""
    check_units(words, {"--max-amount": "0.05", "--deposit": None})
