"""The rules of the test run itself: nothing is skipped in silence, long forms run when asked."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

CONFTEST = Path(__file__).parents[1] / "conftest.py"
TESTS = {
    "test_it": """
import pytest

@pytest.mark.xfail
def test_expected():
    assert False

def test_short():
    pass

@pytest.mark.long
def test_long():
    pass
"""
}
SKIPS = {
    "test_body": "import pytest\ndef test_it():\n    pytest.skip('no keyring')\n",
    "test_mark": "import pytest\n@pytest.mark.skipif(True, reason='no keyring')\ndef test_it():\n    pass\n",
    "test_fixture": (
        "import pytest\n@pytest.fixture\ndef it():\n    pytest.skip('no keyring')\n"
        "def test_it(it):\n    pass\n"
    ),
    "test_module": "import pytest\npytest.skip('no keyring', allow_module_level=True)\n",
}


def run_pytest(
    folder: Path, tests: dict[str, str], *arguments: str, ci: str
) -> subprocess.CompletedProcess[str]:
    shutil.copy(CONFTEST, folder / "conftest.py")
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n    long: the long form\n")
    for name, content in tests.items():
        (folder / f"{name}.py").write_text(content)
    environment = {**os.environ, "CI": ci, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_skip_is_a_failure_under_ci(tmp_path):
    """However a test is skipped, CI=true fails it and says the reason."""
    done = run_pytest(tmp_path, SKIPS, "--continue-on-collection-errors", ci="true")
    assert done.returncode == 1
    assert "1 failed, 3 errors" in done.stdout
    assert done.stdout.count("no keyring") >= len(SKIPS)


def test_elsewhere_a_skip_is_a_skip(tmp_path):
    """On a person's machine what cannot run is skipped, with the reason."""
    done = run_pytest(tmp_path, SKIPS, ci="")
    assert done.returncode in (0, 5)
    assert "4 skipped" in done.stdout


def test_long_forms_run_when_asked(tmp_path):
    """Without --long they are deselected, not skipped; an expected failure is no skip either."""
    assert "1 passed, 1 deselected, 1 xfailed" in run_pytest(tmp_path, TESTS, ci="true").stdout
    assert "2 passed, 1 xfailed" in run_pytest(tmp_path, TESTS, "--long", ci="true").stdout
