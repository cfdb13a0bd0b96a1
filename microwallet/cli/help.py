"""`microwallet help`: read about a topic."""

from __future__ import annotations

from importlib.resources import files
from typing import Annotated

import typer

from microwallet.cli.command import command, new_group
from microwallet.cli.options import Json
from microwallet.cli.result import Result
from microwallet.cli.table import named
from microwallet.errors import UnknownReference, did_you_mean

app = new_group("Read about a topic.")

TOPICS = {
    "channels": "how a channel works",
    "conformance": "what the drafts demand, whether it is met, and the tests that show it",
    "fees": "who pays the gas, and how the escrow differs from the draft",
    "safety": "how money can be lost, and what protects it",
    "selling": "a price on what you serve: routes, TLS, settlement, logs",
    "scripting": "JSON, exit codes, idempotency keys, settings",
    "python": "programs that pay and are paid",
}


def _topics(incomplete: str) -> list[tuple[str, str]]:
    return [topic for topic in TOPICS.items() if topic[0].startswith(incomplete)]


@command(app, "help", "microwallet help channels")
def help_(
    context: typer.Context,
    topic: Annotated[
        list[str] | None, typer.Argument(metavar="TOPIC", help=", ".join(TOPICS), autocompletion=_topics)
    ] = None,
    json: Json = False,
) -> Result:
    """Read about a topic, or list the topics."""
    if not topic:
        return Result(
            data={"topics": TOPICS}, text=named(TOPICS.items()), notes=["read one: microwallet help channels"]
        )
    name = " ".join(topic)
    if name not in TOPICS:
        is_command = topic[0] in context.find_root().command.list_commands(context)  # type: ignore[attr-defined]
        raise UnknownReference(
            f"there is no topic {name!r}; {did_you_mean(name, TOPICS)}",
            hint=f"microwallet {name} --help" if is_command else "microwallet help",
        )
    text = files("microwallet").joinpath("guide", f"{name}.md").read_text(encoding="utf-8")
    return Result(data={"topic": name, "text": text}, text=text)
