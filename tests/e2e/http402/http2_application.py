"""What `paid_application` sells, for a server of HTTP/2; tells how each request came, as JSON, one a line."""

from __future__ import annotations

import json
import sys

from paid_application import ROUTES, application

from microwallet import PaymentMiddleware


def tell(what):
    """One line."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


class Told:
    """Tells of each request before anybody else sees it, and once one that pays has ended."""

    def __init__(self, inner):
        self._inner = inner

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        came = {
            "version": scope["http_version"],
            "connection": scope["client"][1],
            "method": scope["method"],
            "path": scope["path"],
            "pays": b"authorization" in dict(scope["headers"]),
        }
        tell(came)
        try:
            await self._inner(scope, receive, send)
        finally:
            if came["pays"] and came["method"] == "GET":
                tell({"ended": scope["path"]})


class CutShort:
    """Ends what ends with /short as a proxy does whose upstream breaks off: with less than it says."""

    def __init__(self, inner):
        self._inner = inner

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http" or not scope["path"].endswith("/short"):
            await self._inner(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000")]})
        await send({"type": "http.response.body", "body": b"half"})


FREE = {"path": "/free/*", "free": True}

app = Told(PaymentMiddleware(CutShort(application()), routes=[FREE, *ROUTES], realm="test"))
