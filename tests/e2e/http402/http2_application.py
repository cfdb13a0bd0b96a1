"""What `paid_application` sells, for a server of HTTP/2; tells how each request came, as JSON, one a line."""

from __future__ import annotations

import json
import sys

from paid_application import ROUTES, application

from microwallet import PaymentMiddleware


class Told:
    """Tells of each request before anybody else sees it."""

    def __init__(self, inner):
        self._inner = inner

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            came = {
                "version": scope["http_version"],
                "connection": scope["client"][1],
                "method": scope["method"],
                "path": scope["path"],
                "pays": b"authorization" in dict(scope["headers"]),
            }
            sys.stdout.write(json.dumps(came) + "\n")
            sys.stdout.flush()
        await self._inner(scope, receive, send)


app = Told(PaymentMiddleware(application(), routes=ROUTES, realm="test"))
