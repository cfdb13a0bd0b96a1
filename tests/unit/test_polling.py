"""Looking again and again for what happens elsewhere."""

from __future__ import annotations

from itertools import islice

from microwallet.polling import polls


def test_who_has_no_time_looks_once():
    """Where nothing is waited for, one look is all, and no pause follows it."""
    assert len(list(polls(within=0, every=3600))) == 1


def test_it_is_looked_for_again_while_there_is_time():
    """While the time is not over, another look follows each pause."""
    assert len(list(islice(polls(within=3600, every=0), 5))) == 5


def test_looking_ends_when_the_time_is_over():
    """The last look comes no later than one pause after the end."""
    assert 1 < len(list(polls(within=0.02, every=0.005))) < 100
