"""Passwords come from a file, else from a person, else not at all."""

import os
from pathlib import Path

import pytest

from microwallet.errors import KeyUnavailable
from microwallet.keys.passwords import PasswordSource


def asker(*answers: str):
    """A prompt that gives these answers, and the questions it was asked."""
    left, asked = list(answers), []

    def prompt(question: str) -> str:
        asked.append(question)
        return left.pop(0)

    return prompt, asked


def never(question: str) -> str:
    raise AssertionError(question)


@pytest.mark.parametrize("content", ["s3cret\n", "s3cret", "s3cret\r\n", "s3cret\nsecond line\n"])
def test_the_first_line_of_the_file_is_the_password(tmp_path: Path, content: str) -> None:
    """Line ends are no part of it, and nobody is asked."""
    (tmp_path / "pw").write_text(content)
    assert PasswordSource(str(tmp_path / "pw"), never).password("the key") == "s3cret"


def test_what_would_have_to_be_typed(tmp_path: Path) -> None:
    """Nothing where a file has it, where nobody is there, or once it was typed."""
    (tmp_path / "pw").write_text("s3cret\n")
    assert not PasswordSource(str(tmp_path / "pw"), never).is_to_be_typed
    assert not PasswordSource(None, None).is_to_be_typed
    typed = PasswordSource(None, asker("s3cret")[0])
    assert typed.is_to_be_typed
    typed.password("the key")
    assert not typed.is_to_be_typed


def test_spaces_belong_to_the_password(tmp_path: Path) -> None:
    """Only the line end is cut off."""
    (tmp_path / "pw").write_text("  two words \n")
    assert PasswordSource(str(tmp_path / "pw"), None).password("the key") == "  two words "


def test_a_file_descriptor_is_a_file() -> None:
    """`--password-file /dev/fd/N` reads a pipe, once, however often the password is needed."""
    reader, writer = os.pipe()
    os.write(writer, b"piped\n")
    os.close(writer)
    source = PasswordSource(f"/dev/fd/{reader}", None)
    assert source.password("the key") == "piped"
    assert source.password("another key") == "piped"
    os.close(reader)


def test_a_person_is_asked_once() -> None:
    """The answer serves every key of the process."""
    prompt, asked = asker("typed")
    source = PasswordSource(None, prompt)
    assert [source.password("the key of account alice"), source.password("another")] == ["typed", "typed"]
    assert asked == ["Password for the key of account alice: "]


def test_a_new_password_is_typed_twice() -> None:
    """Until both are equal, three times at most; why it is asked again is said."""
    prompt, asked = asker("one", "two", "same", "same")
    assert PasswordSource(None, prompt).password("alice", new=True) == "same"
    assert asked == [
        "New password for alice: ",
        "Once more: ",
        "It was empty, or typed differently. New password for alice: ",
        "Once more: ",
    ]
    prompt, _ = asker("one", "two", "", "one", "two")
    with pytest.raises(KeyUnavailable, match="no password was chosen"):
        PasswordSource(None, prompt).password("alice", new=True)


def test_an_empty_answer_is_asked_again() -> None:
    """An empty password is none; after three the command gives up."""
    prompt, _ = asker("", "typed")
    assert PasswordSource(None, prompt).password("alice") == "typed"
    prompt, _ = asker("", "", "")
    with pytest.raises(KeyUnavailable, match="empty"):
        PasswordSource(None, prompt).password("alice")


def test_without_file_and_terminal_the_flag_is_named() -> None:
    """Nothing hangs: exit 6, with the flag and the variable to use."""
    with pytest.raises(KeyUnavailable, match=r"^a new password for the key of account alice is needed"):
        PasswordSource(None, None).password("the key of account alice", new=True)
    with pytest.raises(
        KeyUnavailable, match=r"^the password for the key of account alice is needed"
    ) as caught:
        PasswordSource(None, None).password("the key of account alice")
    assert caught.value.exit_code == 6
    assert "--password-file" in (caught.value.hint or "")
    assert "MICROWALLET_PASSWORD_FILE" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "empty"), (b"\nlater", "empty"), (b"x" * 5000, "longer than"), (b"\xff\xfes3cret", "not UTF-8")],
)
def test_a_useless_file_is_an_error(tmp_path: Path, content: bytes, message: str) -> None:
    """Its name is said, its content never."""
    (tmp_path / "pw").write_bytes(content)
    with pytest.raises(KeyUnavailable, match=message) as caught:
        PasswordSource(str(tmp_path / "pw"), never).password("the key")
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    """A named file that is not there is not replaced by a prompt."""
    with pytest.raises(KeyUnavailable, match="No such file"):
        PasswordSource(str(tmp_path / "none"), never).password("the key")


def test_a_file_open_to_others_is_mentioned(tmp_path: Path) -> None:
    """It is used all the same; with mode 0600 nothing is said."""
    said: list[str] = []
    file = tmp_path / "pw"
    file.write_text("s3cret\n")
    file.chmod(0o644)
    assert PasswordSource(str(file), None, said.append).password("the key") == "s3cret"
    assert said == [f"warning: others may read the password file {file}; to mend: chmod 600 {file}"]
    file.chmod(0o600)
    PasswordSource(str(file), None, said.append).password("the key")
    assert len(said) == 1


def test_the_representation_shows_nothing() -> None:
    """Not the password, and not the file."""
    source = PasswordSource(None, lambda _: "s3cret")
    source.password("the key")
    assert repr(source) == "PasswordSource()"
