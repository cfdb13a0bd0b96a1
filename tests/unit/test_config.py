"""The user file: what it may hold, and where it cannot be written."""

from __future__ import annotations

import pwd
import resource

import pytest

from microwallet.config import Configuration, Paths
from microwallet.errors import UsageError


def configuration(home):
    """The settings of a home."""
    return Configuration(Paths(home=home, environment={}), {})


def test_a_home_that_cannot_be_made_is_a_usage_error(tmp_path):
    """There is a file where its parent should be."""
    (tmp_path / "file").touch()
    with (
        pytest.raises(UsageError, match="cannot be written"),
        configuration(tmp_path / "file" / "home").editing(),
    ):
        pass


def test_a_full_disk_keeps_the_file_as_it_was(tmp_path):
    """What could not be written whole is not put in its place."""
    with configuration(tmp_path).editing() as content:
        content["account"] = "alice"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5, hard))
    try:
        with (
            pytest.raises(UsageError, match="cannot be written"),
            configuration(tmp_path).editing() as content,
        ):
            content["account"] = "bob"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert configuration(tmp_path).get("account") == "alice"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('max_amount = "0.0001 USDC"', "there is no setting 'max_amount'; did you mean max-amount"),
        ('[limits]\nmax-amount = "1 USDC"', "there is no setting 'limits'"),
    ],
)
def test_a_setting_that_is_none_is_named(tmp_path, text, said):
    """A limit that was mistyped would not be in force, and nothing would tell: it is refused, as `config set`
    refuses it, where settings are read and where they are changed."""
    was_read, file = configuration(tmp_path), tmp_path / "config.toml"
    file.write_text(text)
    with pytest.raises(UsageError) as refused:
        configuration(tmp_path)
    assert f"{file}: {said}" in refused.value.message
    assert refused.value.hint == f"mend it, or move it away: mv {file} {file}.old"
    with pytest.raises(UsageError, match="there is no setting"), was_read.editing():
        pass


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('max-amount = "0.0001 USDC"', "max-amount is not chosen by a folder, only network and account are"),
        ('netwrok = "sepolia"', "there is no setting 'netwrok'; did you mean network?"),
        ("[networks.a]", "networks is not chosen by a folder, only network and account are"),
    ],
)
def test_what_a_folder_does_not_choose_is_named(tmp_path, text, said):
    """A limit in its file would not be in force, and a network that is mistyped would be another one."""
    file = tmp_path / "microwallet.toml"
    file.write_text(text)
    with pytest.raises(UsageError) as refused:
        Configuration(Paths(home=tmp_path / "home", environment={}), {}, project_folder=tmp_path)
    assert refused.value.message == f"{file}: {said}"
    assert refused.value.hint == f"mend it, or move it away: mv {file} {file}.old"
    file.write_text('network = "sepolia"\naccount = "a"')
    chosen = Configuration(Paths(home=tmp_path / "home", environment={}), {}, project_folder=tmp_path)
    assert (chosen.get("network"), chosen.get("account")) == ("sepolia", "a")


def test_tables_of_networks_tokens_and_escrows_are_settings(tmp_path):
    """What `network add`, `network token add` and `escrow trust` write is read again."""
    with configuration(tmp_path).editing() as content:
        content |= {"network": "a", "networks": {"a": {}}, "tokens": {"1": {}}, "escrows": {"1": []}}
    assert configuration(tmp_path).section("networks") == {"a": {}}


@pytest.mark.parametrize("named", [None, "~/wallet"])
def test_a_user_without_a_home_folder_is_told_what_to_name(monkeypatch, named):
    """As in a container that runs under a number: no folder is made where it happens to be."""

    def unknown(_):
        raise KeyError("uid")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match="no home folder") as caught:
        Paths.from_environment({"MICROWALLET_HOME": named} if named else {})
    assert caught.value.hint == "export MICROWALLET_HOME=/a/folder"
