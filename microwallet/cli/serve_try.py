"""`microwallet serve --try`: samples for sale on a throw-away chain, and the lines that pay for them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NoReturn

import typer

from microwallet.assortment import Assortment
from microwallet.cli.context import Stderr, open_wallet
from microwallet.cli.result import streaming
from microwallet.cli.serve_run import Output, sell
from microwallet.devnet.anvil import find_anvil
from microwallet.devnet.samples import ROUTES, sample_api
from microwallet.devnet.trial import trial
from microwallet.domain.ports import Quiet, Reporter
from microwallet.errors import UsageError
from microwallet.http402.serving.settings import Settings

_IN_THE_WAY = ("ACCOUNT", "NETWORK", "PASSWORD_FILE", "RPC_URL", "TOKEN")
"""Variables that would win over the settings of the payer's home."""


def run_trial(flags: Mapping[str, Any], output: Output) -> NoReturn:
    """Sell samples until a signal comes; then the chain and both homes are gone."""
    given = {name: value for name, value in flags.items() if value not in (None, [])}
    if superfluous := [name for name in given if name not in ("host", "port")]:
        raise UsageError(
            f"--try sells samples, so it has no --{superfluous[0]}", hint="microwallet serve --try"
        )
    settings = Settings.read(None, given | {"routes": ROUTES})
    reporter: Reporter = Quiet() if output.as_json else Stderr()
    anvil = find_anvil(os.environ, open_wallet().paths.cache, reporter)
    reporter.say("starting a throw-away chain, a payer and a payee")
    with streaming(enabled=output.as_json), trial(anvil) as homes, homes.open_payee() as wallet:
        assortment = Assortment.of(wallet, settings)

        def told(url: str) -> tuple[str, dict[str, list[str]]]:
            return "try", {"lines": _lines(str(homes.payer), url)}

        code = sell(wallet, settings, assortment, sample_api, output, then=told)
    raise typer.Exit(code)


def _lines(payer: str, url: str) -> list[str]:
    """What to paste in another terminal."""
    variables = [f"MICROWALLET_{name}" for name in _IN_THE_WAY if os.environ.get(f"MICROWALLET_{name}")]
    return [
        *([f"unset {' '.join(variables)}"] if variables else []),
        f"export MICROWALLET_HOME={payer}",
        f"microwallet fetch {url}/article --yes",
        f"microwallet fetch {url}/stream",
        f"microwallet fetch {url}/image.svg -o image.svg",
        "microwallet channel list",
    ]
