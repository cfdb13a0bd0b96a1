"""The payer's channels in the ledger: found by what is typed, never lost, labels that stay unique."""

from __future__ import annotations

from dataclasses import replace

import pytest
from model import PAYEE, PAYER, keyed

from microwallet.domain.channel import NO_CHANNEL
from microwallet.domain.identifiers import ChannelId
from microwallet.errors import AmbiguousReference, UnknownReference, UsageError
from microwallet.ledger.channels import check_label

ONE, TWO = keyed(1), keyed(2)
OPEN = replace(NO_CHANNEL, deposit=1000)


def test_a_reorganisation_gives_a_closed_channel_back_beside_its_successor(ledger):
    """Both live channels had one label: the newer keeps it, and no refresh fails."""
    ledger.channels.add(ONE.payer_channel(deposit=1000, label="coffee"), now=1)
    ledger.channels.record_states({ONE.channel_id: replace(OPEN, finalized=True)}, as_of=2)
    ledger.channels.add(TWO.payer_channel(deposit=1000, label="coffee"), now=3)
    ledger.channels.record_states({ONE.channel_id: OPEN, TWO.channel_id: OPEN}, as_of=4)
    assert ledger.channels.find("coffee").channel_id == TWO.channel_id
    again = ledger.channels.get(ONE.channel_id)
    assert (again.label, again.state) == (None, OPEN)


def test_two_closed_channels_of_one_label_that_come_back_at_once(ledger):
    """The newer keeps the label; what the chain says of both is stored."""
    ids = (ONE.channel_id, TWO.channel_id)
    for now, one in ((1, ONE), (3, TWO)):
        ledger.channels.add(one.payer_channel(deposit=1000, label="coffee"), now=now)
        ledger.channels.record_states({one.channel_id: replace(OPEN, finalized=True)}, as_of=now)
    assert ledger.channels.record_states(dict.fromkeys(ids, OPEN), as_of=4)
    found = [ledger.channels.get(channel_id) for channel_id in ids]
    assert [(one.label, one.state) for one in found] == [(None, OPEN), ("coffee", OPEN)]


def test_a_closed_channel_that_comes_back_alone_keeps_its_label(ledger):
    """Nobody else has it, so nothing changes."""
    ledger.channels.add(ONE.payer_channel(deposit=1000, label="coffee"), now=1)
    ledger.channels.record_states({ONE.channel_id: replace(OPEN, finalized=True)}, as_of=2)
    ledger.channels.record_states({ONE.channel_id: OPEN}, as_of=3)
    assert ledger.channels.find("coffee").channel_id == ONE.channel_id


def test_an_older_answer_of_the_chain_does_not_replace_what_another_process_recorded(ledger):
    """The one who asked before that is told so, and stores nothing of that channel."""
    newest = replace(OPEN, deposit=2000)
    for one in (ONE, TWO):
        ledger.channels.add(one.payer_channel(deposit=1000), now=1)
    assert ledger.channels.record_states({ONE.channel_id: newest}, before={ONE.channel_id: OPEN}, as_of=2)
    ids = (ONE.channel_id, TWO.channel_id)
    closing = replace(OPEN, close_requested_at=3)
    stored = ledger.channels.record_states(
        dict.fromkeys(ids, closing), before=dict.fromkeys(ids, OPEN), as_of=3
    )
    assert not stored
    assert [ledger.channels.get(one).state for one in ids] == [newest, closing]


def test_the_live_channel_of_a_label_is_meant(ledger):
    """Of several that had a label, the one that is not finalized; then the newest."""
    ledger.channels.add(ONE.payer_channel(deposit=1000, label="coffee"), now=1)
    ledger.channels.record_states({ONE.channel_id: replace(OPEN, finalized=True)}, as_of=2)
    assert ledger.channels.find("coffee").channel_id == ONE.channel_id
    ledger.channels.add(TWO.payer_channel(deposit=1000, label="coffee"), now=3)
    ledger.channels.record_states({TWO.channel_id: OPEN}, as_of=4)
    assert ledger.channels.find("coffee").channel_id == TWO.channel_id
    assert ledger.channels.get(ONE.channel_id).label == "coffee"


def test_two_live_channels_never_share_a_label(ledger):
    """Refused, and the second channel is not added at all."""
    ledger.channels.add(ONE.payer_channel(deposit=1000, label="coffee"), now=1)
    with pytest.raises(UsageError, match="taken"):
        ledger.channels.add(TWO.payer_channel(deposit=1000, label="coffee"), now=2)
    assert ledger.channels.get(TWO.channel_id) is None


@pytest.mark.parametrize("order", [(1, 2, 3, 4, 5, 6), (6, 5, 4, 3, 2, 1)])
def test_channels_of_one_second_stand_in_the_order_they_were_added_in(ledger, order):
    """Everywhere: in the list, among a payee's, where none is found, and by a label that several have had."""
    added = [keyed(number) for number in order]
    for one in added:
        ledger.channels.add(one.payer_channel(deposit=1000, label="coffee"), now=1)
        ledger.channels.record_states({one.channel_id: replace(OPEN, finalized=True)}, as_of=2)
    ids = [one.channel_id for one in added]
    assert ledger.channels.find("coffee").channel_id == ids[-1]
    assert [channel.channel_id for channel in ledger.channels.list(finalized=True)] == ids
    with pytest.raises(UnknownReference) as unknown:
        ledger.channels.find("0x" + "0" * 64)
    assert [line.split()[0] for line in str(unknown.value).splitlines()[1:]] == ids[::-1]
    for channel_id in ids:
        ledger.channels.record_states({channel_id: OPEN}, as_of=3)
    with pytest.raises(AmbiguousReference) as ambiguous:
        ledger.channels.find(PAYEE)
    assert [line.split()[0] for line in str(ambiguous.value).splitlines()[1:]] == ids


def test_adding_again_changes_nothing(ledger):
    """A channel seen again in the chain's events keeps what the ledger knows of it."""
    ledger.channels.add(ONE.payer_channel(deposit=1000, label="coffee", authorized=7), now=1)
    ledger.channels.add(ONE.payer_channel(deposit=1000), now=2)
    assert ledger.channels.find("coffee").authorized == 7


def test_an_imported_voucher_never_lowers_what_is_authorized(ledger):
    """The highest one counts, also where text of other length would compare otherwise. What it authorizes
    beyond what was known is spent; nothing that was signed before it is, nor anything of another channel."""
    signed = [replace(one.payer_channel(deposit=1000, authorized=10), spent=4) for one in (ONE, TWO)]
    for channel in signed:
        ledger.channels.add(channel, now=1)
    for amount, sums in ((9, (10, 4)), (10, (10, 4)), (100, (100, 100))):
        ledger.channels.import_voucher(ONE.channel_id, amount)
        found = ledger.channels.get(ONE.channel_id)
        assert (found.authorized, found.spent) == sums
    assert ledger.channels.get(TWO.channel_id) == signed[1]


def test_channels_whose_vouchers_are_forgotten(ledger):
    """Those that are named, or all that are live: a finalized one signs no more."""
    channels = [keyed(number) for number in (1, 2, 3)]
    for one in channels:
        ledger.channels.add(one.payer_channel(deposit=1000), now=1)
    ledger.channels.record_states({ONE.channel_id: replace(OPEN, finalized=True)}, as_of=2)

    def known():
        return [ledger.channels.get(one.channel_id).voucher_known for one in channels]

    ledger.channels.forget_vouchers([TWO.channel_id])
    assert known() == [True, False, True]
    ledger.channels.forget_vouchers()
    assert known() == [True, False, False]
    ledger.channels.import_voucher(TWO.channel_id, 1)
    assert known() == [True, True, False]


def test_which_channels_are_listed(ledger):
    """Those that are live; those found to be finalized of late, or ever, where they are asked for."""
    for number, as_of in ((1, 5), (2, 6), (3, 1)):
        one = keyed(number)
        ledger.channels.add(one.payer_channel(deposit=1000, label=f"tea {number}"), now=number)
        state = OPEN if number == 3 else replace(OPEN, finalized=True)
        ledger.channels.record_states({one.channel_id: state}, as_of=as_of)

    def labels(**asked):
        return [channel.label for channel in ledger.channels.list(**asked)]

    assert labels(finalized=False) == ["tea 3"]
    assert labels(finalized=False, since=6) == ["tea 2", "tea 3"]
    assert labels(finalized=True) == ["tea 1", "tea 2", "tea 3"]
    assert [ledger.channels.has_label(f"tea {number}") for number in (1, 3, 4)] == [False, True, False]


def test_the_largest_amounts_are_kept_exactly(ledger):
    """uint128 comes back to the last unit."""
    largest = 2**128 - 1
    ledger.channels.add(ONE.payer_channel(deposit=2**96 - 1, authorized=largest), now=1)
    found = ledger.channels.get(ONE.channel_id)
    assert (found.authorized, found.state.deposit) == (largest, 2**96 - 1)


def test_a_prefix_of_two_is_ambiguous_and_a_short_one_unknown(ledger):
    """Four digits at least, and the candidates are listed."""
    ledger.channels.add(ONE.payer_channel(deposit=1000), now=1)
    assert ledger.channels.find(ONE.channel_id[:6]).channel_id == ONE.channel_id
    assert ledger.channels.find(ONE.channel_id[:20].upper().replace("0X", "0x")).channel_id == ONE.channel_id
    with pytest.raises(UnknownReference):
        ledger.channels.find(ONE.channel_id[:5])
    ledger.channels.add(TWO.payer_channel(deposit=1000), now=1)
    with pytest.raises(AmbiguousReference, match=ONE.channel_id):
        ledger.channels.find(PAYEE)


def test_channels_to_choose_from_are_told_with_what_is_left(ledger):
    """Id, label and money of each, no payee, which all have, and a hint that can be typed."""
    ledger.channels.add(ONE.payer_channel(deposit=10_000_000, authorized=1_500_000, label="my tea"), now=1)
    ledger.channels.add(TWO.payer_channel(deposit=1_000_000), now=2)
    with pytest.raises(AmbiguousReference) as ambiguous:
        ledger.channels.find(PAYEE)
    assert ambiguous.value.message.splitlines()[1:] == [
        f"  {ONE.channel_id}  my tea  8.5 USDC of 10 USDC left",
        f"  {TWO.channel_id}  -  1 USDC of 1 USDC left",
    ]
    assert ambiguous.value.hint == "name one by its label, or by its id or more characters of it: 'my tea'"


def test_a_payee_means_its_open_channel(ledger):
    """Channels that are closing or opening come into it only where none is open; those of others never."""
    opening, other = keyed(3), keyed(4, payee=PAYER)
    for one, deposit in ((ONE, 1000), (TWO, 1000), (opening, 0), (other, 1000)):
        ledger.channels.add(one.payer_channel(deposit=deposit), now=1)
    ledger.channels.record_states({ONE.channel_id: replace(OPEN, close_requested_at=5)}, as_of=6)
    assert ledger.channels.find(PAYEE).channel_id == TWO.channel_id
    ledger.channels.record_states({TWO.channel_id: replace(OPEN, finalized=True)}, as_of=7)
    ledger.channels.record_states({opening.channel_id: replace(OPEN, finalized=True)}, as_of=7)
    assert ledger.channels.find(PAYEE.lower()).channel_id == ONE.channel_id
    assert ledger.channels.find(PAYER).channel_id == other.channel_id


def test_the_start_of_an_id_means_one_channel_or_none(ledger):
    """That of several is refused; a whole id means its own channel."""
    ids = [ChannelId(start.ljust(66, "0")) for start in ("0xabc0", "0xabcd0", "0xabcdf", "0xabce")]
    for channel_id in ids:
        ledger.channels.add(replace(ONE.payer_channel(deposit=1000), channel_id=channel_id), now=1)
    for reference in (*ids, "0xabc0", "0xABCE", "0xabcd0", "0xabcdf"):
        meant = [one for one in ids if one.startswith(reference.lower())]
        assert [ledger.channels.find(reference).channel_id] == meant
    with pytest.raises(AmbiguousReference, match="means 2 channels"):
        ledger.channels.find("0xabcd")
    with pytest.raises(UnknownReference):
        ledger.channels.find("0xabcdg")


@pytest.mark.parametrize("label", ["", "0xabc", "-f", "a" * 65, "a\nb", "\x1b[2J"])
def test_a_label_that_could_be_something_else(label):
    """An id, a flag, or control characters make no label."""
    with pytest.raises(UsageError):
        check_label(label)


def test_a_misspelled_label_gets_a_suggestion(ledger):
    """A near label is suggested and never taken, and the channels are listed; so they are without one."""
    ledger.channels.add(ONE.payer_channel(deposit=1000, label="coffee"), now=1)
    with pytest.raises(UnknownReference, match=rf"did you mean coffee\?\n  {ONE.channel_id}"):
        ledger.channels.find("cofee")
    with pytest.raises(UnknownReference, match=rf"there are:\n  {ONE.channel_id}"):
        ledger.channels.find("tea")
    with pytest.raises(UnknownReference, match="four digits"):
        ledger.channels.find(ONE.channel_id[:5])


def test_a_finalized_channel_is_listed_as_one(ledger):
    """Where a payee means no channel, as all of it are finalized, the list says which those are."""
    ledger.channels.add(ONE.payer_channel(deposit=1000), now=1)
    ledger.channels.add(TWO.payer_channel(deposit=1000, label="tea"), now=1)
    finalized = replace(OPEN, finalized=True)
    ledger.channels.record_states({ONE.channel_id: finalized}, as_of=2)
    with pytest.raises(UnknownReference) as caught:
        ledger.channels.find("coffee")
    assert f"  {ONE.channel_id}  -  to {PAYEE}  finalized" in caught.value.message.splitlines()
    assert f"  {TWO.channel_id}  tea  to {PAYEE}" in caught.value.message.splitlines()
    ledger.channels.record_states({TWO.channel_id: finalized}, as_of=3)
    with pytest.raises(UnknownReference) as caught:
        ledger.channels.find(PAYEE)
    assert caught.value.message.count("finalized") == 2


def test_a_label_is_shown_as_a_word_of_the_shell():
    """What is suggested can be pasted, whatever the label is made of."""
    assert ONE.payer_channel(deposit=1, label="my label").name == "'my label'"
    assert ONE.payer_channel(deposit=1, label="coffee").name == "coffee"
    assert ONE.payer_channel(deposit=1).name == ONE.channel_id
