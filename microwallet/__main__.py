"""`python -m microwallet`, and what the console script calls."""

import sys


def start() -> None:
    """Run the command. Ctrl-C while it is loaded, which takes longer than most of them, is an error like any
    other."""
    try:
        from microwallet.cli.main import run
    except KeyboardInterrupt:
        _interrupted()
    run()


def _interrupted() -> None:
    """As `microwallet.cli.result` prints it, which is not loaded."""
    if "--json" in sys.argv:
        error = '{"code": "interrupted", "message": "interrupted", "hint": null, "exitCode": 130}'
        sys.stdout.write(f'{{"schema": 1, "ok": false, "error": {error}}}\n')
    else:
        sys.stderr.write("error: interrupted\n")
    raise SystemExit(130) from None


if __name__ == "__main__":
    start()
