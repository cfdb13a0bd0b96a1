"""How a command ends: at once, and with everything done that is to be done then."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

END = "from microwallet.cli.main import run; run()"


def ended(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A program that ends as the command does."""
    words = [sys.executable, "-c", f"{program}\n{END}", *arguments]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_what_is_registered_for_the_end_is_done():
    """It may say something, too."""
    done = ended(
        "import atexit, sys\n"
        "atexit.register(print, 'the end')\n"
        "atexit.register(print, 'the end', end='', file=sys.stderr)\n",
        "--version",
    )
    assert done.stdout.endswith("\nthe end\n")
    assert (done.stderr, done.returncode) == ("the end", 0)


def test_threads_are_waited_for():
    """None of them is cut off."""
    done = ended(
        "import threading, time\n"
        "threading.Thread(target=lambda: (time.sleep(0.5), print('the end'))).start()\n",
        "--version",
    )
    assert "the end" in done.stdout.splitlines()  # wherever: it may take longer to say the version
    assert done.returncode == 0


def test_nothing_is_taken_apart():
    """That takes a quarter of the time of a short command."""
    program = "class One:\n    def __del__(self): print('taken apart')\none = One()\n"
    assert "taken apart" not in ended(program, "--version").stdout


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_streams_that_are_closed(closed):
    """The exit code is as without that."""
    done = ended(f"import sys; sys.{closed} = None", "voucher", "verify", "--nonsense")
    assert done.returncode == 2


INTERRUPTED = """
import sys

class Interrupt:
    def find_spec(self, name, *_):
        if name == "microwallet.cli.command":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupt())
from microwallet.__main__ import start
start()
"""


@pytest.mark.parametrize("words", [[], ["--json"]], ids=str)
def test_ctrl_c_while_it_is_loaded(words):
    """Which takes longer than most commands: an error like any other, and no traceback."""
    ended = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, "balance", *words], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 130
    if words:
        assert json.loads(ended.stdout)["error"]["code"] == "interrupted"
        assert ended.stderr == ""
    else:
        assert (ended.stdout, ended.stderr) == ("", "error: interrupted\n")
