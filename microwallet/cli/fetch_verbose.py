"""What `fetch -v` says: each request as it is sent, credentials and vouchers included, and its answer."""

from __future__ import annotations

import httpx

from microwallet.cli.fetch_view import say_request, say_response


class ToldTransport(httpx.BaseTransport):
    """Another transport, whose exchanges are told on stderr."""

    def __init__(self, inner: httpx.BaseTransport) -> None:
        self._inner = inner

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send it, and tell."""
        say_request(request)
        response = self._inner.handle_request(request)
        say_response(response)
        return response

    def close(self) -> None:
        """Close the transport inside."""
        self._inner.close()
