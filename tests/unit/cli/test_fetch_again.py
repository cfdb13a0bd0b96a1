"""The command that is hinted at after a lost answer: it can be typed, and tells no secret."""

from __future__ import annotations

import shlex

import pytest
import typer

from microwallet.cli.fetch import app
from microwallet.cli.fetch_again import repeats
from microwallet.cli.fetch_secrets import is_secret

URL = "https://shop.example/ask"


def hint(*words):
    """What repeats a command."""
    context = typer.main.get_command(app).make_context("microwallet fetch", list(words))
    return repeats(context)("k 1")


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (("-H", "Authorization: Bearer s3cret"), '-H "Authorization: $AUTHORIZATION"'),
        (("-H", "proxy-authorization:s3cret"), '-H "proxy-authorization: $PROXY_AUTHORIZATION"'),
        (("-H", "Cookie: session=s3cret"), '-H "Cookie: $COOKIE"'),
        (("-H", "X-Api-Key: s3cret"), '-H "X-Api-Key: $X_API_KEY"'),
        (("-H", "X-Auth-Token : s3cret"), '-H "X-Auth-Token: $X_AUTH_TOKEN"'),
        (("-d", "a=$1&client_secret=s3cret&b=2"), r'-d "a=\$1&client_secret=$CLIENT_SECRET&b=2"'),
        (("-d", "user%5Btoken%5D=s3cret&b=2"), '-d "user%5Btoken%5D=$USER_5BTOKEN_5D&b=2"'),
        (("-F", "user[password]=s3cret&x"), '-F "user[password]=$USER_PASSWORD"'),
        (("-x", "http://me:s3c/r@et@10.0.0.1:3128"), '-x "http://$PROXY_USER@10.0.0.1:3128"'),
        (("-x", "me:s3cret@10.0.0.1:3128"), '-x "$PROXY_USER@10.0.0.1:3128"'),
        (("--rpc-url", "https://rpc.example/v3/0123456789s3cret"), '--rpc-url "$MICROWALLET_RPC_URL"'),
    ],
    ids=lambda value: value if isinstance(value, str) else value[-1],
)
def test_secrets_are_left_to_be_filled_in(words, shown):
    """A variable stands in their place, and the comment names it; the rest is as typed."""
    told = hint(URL, *words)
    again, _, comment = told.partition("  # with the same ")
    assert again == f"microwallet fetch {URL} {shown} --idempotency-key 'k 1'"
    assert comment in shown
    assert comment.startswith("$")


def test_a_secret_in_the_url_is_left_to_be_filled_in():
    """Its query is told but for what is secret; a secret that comes twice is named once."""
    told = hint("GET", f"{URL}?a=1&api_key=s3cret&n=2", "-H", "api-key: s3cret")
    assert told == (
        f'microwallet fetch GET "{URL}?a=1&api_key=$API_KEY&n=2" -H "api-key: $API_KEY"'
        " --idempotency-key 'k 1'  # with the same $API_KEY"
    )


@pytest.mark.parametrize(
    "words",
    [
        ("-H", "Accept: text/plain"),
        ("-H", "X-Keyboard: no Cookie: here"),
        ("-d", '{"q": "what is a token=?"}'),
        ("-d", "monkeys=3&q=$HOME"),
        ("-F", "token=@token.txt"),
        ("-F", "token=<token.txt"),
        ("-F", "text=my token=1"),
        ("-L", "-x", "http://127.0.0.1:3128", "--rpc-url", "http://127.0.0.1:8545", "--yes"),
    ],
    ids=lambda words: words[1],
)
def test_what_is_no_secret_is_as_typed(words):
    """Quoted for a shell where it has to be, and nothing has to be set."""
    told = hint(URL, *words)
    assert shlex.split(told) == ["microwallet", "fetch", URL, *words, "--idempotency-key", "k 1"]


def test_data_on_stdin_has_to_come_again():
    """The comment says so, beside what has to be set."""
    told = hint(URL, "-d", "-", "-H", "Authorization: Bearer s3cret")
    assert told.endswith("  # with the same data on stdin and $AUTHORIZATION")
    assert hint(URL, "-F", "text=<-").endswith("  # with the same data on stdin")


@pytest.mark.parametrize("name", ["Authorization", "cookie", "X-API-KEY", "x-amz-security-token"])
def test_the_same_headers_are_hidden_by_verbose(name):
    """There is one list of what is secret."""
    assert is_secret(name)
    assert not is_secret(f"{name}-policy")
