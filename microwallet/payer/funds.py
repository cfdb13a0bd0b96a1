"""Whether an account can pay for what it is about to do, found out before any key is touched."""

from __future__ import annotations

from microwallet.domain.money import Amount
from microwallet.errors import InsufficientFunds, NetworkError, NotTrusted
from microwallet.escrow.artifacts import artifact
from microwallet.escrow.deployment import Deployment, deployment_of
from microwallet.escrow.form import EscrowForm, escrow_form
from microwallet.payer.paying_account import PayingAccount


def require_escrow(account: PayingAccount) -> None:
    """NetworkError unless the escrow is on this chain with the code its address commits to.

    NotTrusted for one that the user trusts and that takes other calls than ours.
    """
    contract = artifact("ChannelEscrow")
    escrow = account.reader.escrow_contract
    if escrow != contract.address:
        form = escrow_form(account.reader.code(escrow))
        if form is EscrowForm.DRAFT:
            raise NotTrusted(
                f"the escrow {escrow} is of the draft's own form, whose calls take the channel's id:"
                " a deposit would get in, and no call of this wallet would get it out",
                hint="microwallet help fees",
            )
        found = Deployment.MISSING if form is EscrowForm.MISSING else Deployment.DEPLOYED
    else:
        found = deployment_of(account.reader, contract)
    if found is Deployment.MISSING:
        raise NetworkError(
            f"there is no escrow contract at {escrow} on {account.network.name}",
            hint="microwallet escrow deploy",
        )
    if found is Deployment.OTHER_CODE:
        raise NetworkError(
            f"the code at {escrow} on {account.network.name} is not the escrow's: do not use this chain"
        )


def require_funds(account: PayingAccount, amount: Amount, gas: int) -> int:
    """InsufficientFunds unless the account holds the amount and the price of `gas`; 0 where others pay it.

    Returns that price in wei: the most that is spent on it.
    """
    max_fee = account.fees().cost(gas) if gas else 0
    token, owner = amount.asset.token, account.address
    if amount.asset.is_native:
        _require_coin(account, account.reader.native_balance(owner), amount.base_units, max_fee)
        return max_fee
    held = account.reader.token_balance(token, owner)
    if held < amount.base_units:
        missing = Amount(amount.base_units - held, amount.asset)
        raise InsufficientFunds(
            f"{account.name} ({owner}) holds {Amount(held, amount.asset)} on {account.network.name};"
            f" {amount} is needed",
            hint=_fund_hint(account, str(missing), native=False),
        )
    _require_coin(account, account.reader.native_balance(owner), 0, max_fee)
    return max_fee


def _require_coin(account: PayingAccount, held: int, value: int, max_fee: int) -> None:
    if held >= value + max_fee:
        return
    coins, needed = account.network.coins, value + max_fee
    purpose = f"{coins(value)} and gas" if value else "gas"
    raise InsufficientFunds(
        f"{account.name} ({account.address}) holds {coins(held)} on {account.network.name}; up to"
        f" {coins(needed)} is needed for {purpose}",
        hint=_fund_hint(account, coins(needed - held), native=True),
    )


def _fund_hint(account: PayingAccount, missing: str, *, native: bool) -> str:
    faucets = account.network.faucets
    if not faucets:
        return f"send {missing} to {account.address}"
    faucet = faucets[0] if native else faucets[-1]
    if faucets[0].startswith("microwallet "):
        return f'microwallet devnet fund {account.name} "{missing}"'
    return f"{faucet}  (for {account.address})"
