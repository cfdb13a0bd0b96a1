"""The URL that was meant by a part of one."""

from __future__ import annotations

import re

_PARTS = re.compile(
    r"(?:(?P<scheme>[a-z][a-z0-9+.-]*)://)?"
    r"(?P<host>[a-z0-9_.-]+|\[[0-9a-f:.]+\])(?P<port>:[0-9]{1,5})?(?P<path>/[!-~]*)?",
    re.IGNORECASE,
)
_WITHOUT_TLS = frozenset({"ws", "tcp"})
_THIS_MACHINE = re.compile(r"localhost|127\.[0-9.]+|\[::1\]", re.IGNORECASE)


def whole_url(typed: str, *, otherwise: str, is_clear: bool = False) -> str:
    """The http or https URL that was meant by one with no scheme or with another, such as
    127.0.0.1:8545 or ws://host; `otherwise` where it is not plain what was meant.

    Of a host with neither scheme nor port it is https, unless it is this machine or `is_clear`.
    """
    parts = _PARTS.fullmatch(typed)
    if parts is None:
        return otherwise
    scheme, host, port = parts["scheme"], parts["host"], parts["port"]
    is_here = _THIS_MACHINE.fullmatch(host) is not None
    if not (scheme or port or is_here or "." in host):
        return otherwise
    in_clear = scheme.lower() in _WITHOUT_TLS if scheme else bool(port) and port != ":443"
    return f"{'http' if in_clear or is_here or is_clear else 'https'}://{typed[parts.start('host') :]}"
