"""JSON-RPC over HTTP with a deadline, bounded retries, fallback addresses and a checked chain id."""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

from microwallet.domain.identifiers import ChainId
from microwallet.domain.json_text import parse_json
from microwallet.domain.one_line import one_line
from microwallet.domain.retry_after import retry_after_seconds
from microwallet.errors import NetworkError, UsageError, WrongChain
from microwallet.escrow.devnet_notes import LOCAL_CHAIN_ID
from microwallet.escrow.transport import Deadline, Endpoint, TransportError

Request = tuple[str, Sequence[Any]]

BATCH_SIZE = 100
LAG_SECONDS = 15
"""How long the nodes behind one address may lag behind what somebody has seen on the chain."""
PROVEN_SECONDS = 60.0
"""For how long an address that never fails is taken for the chain that it proved to be."""
_ROUNDS = 3
_FIRST_PAUSE = 0.15
_RATE_LIMITED = frozenset({-32005, -32029, 429})
_READS = ("eth_", "net_", "web3_")
_NOT_READS = frozenset({"eth_sendTransaction"})


class RpcError(NetworkError):
    """The server answered with a JSON-RPC error object; `error_data` is a revert's data, if any."""

    code = "rpc-error"

    def __init__(self, message: str, *, error_code: int | None, error_data: Any, where: str) -> None:
        super().__init__(f"{where} answered: {message}")
        self.rpc_message = message
        self.error_code = error_code
        self.error_data = error_data
        self.was_asked_before = False
        """Whether the same was sent before, to this server or another, whose answer was lost."""

    @property
    def revert_data(self) -> bytes | None:
        """The bytes a reverted call returned, wherever this server puts them."""
        found = self.error_data
        for _ in range(3):
            if isinstance(found, dict):
                found = found.get("data", found.get("result"))
        if isinstance(found, str):
            digits = found.removeprefix("Reverted ").removeprefix("0x")
            try:
                return bytes.fromhex(digits)
            except ValueError:
                return None
        return None

    @property
    def is_revert(self) -> bool:
        """Whether the call was executed and reverted."""
        return self.error_code == 3 or "revert" in self.rpc_message.lower()


class Rpc:
    """One chain behind one or more addresses. Thread-safe; connections are opened on first use.

    `timeout` bounds each call or batch as a whole: connecting, retries and slow answers included.
    With `chain_id`, every address proves its chain before its first answer is believed, and again once it
    has failed, and now and then. `trace` is told of every request; `network` is the name in hints, where it
    has one, `network_of` the name of a network by its chain id, and `devnets` the addresses of the chain
    where it runs on this machine.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        timeout: float,
        chain_id: int | None = None,
        network: str | None = None,
        network_of: Callable[[int], str | None] = lambda _: None,
        devnets: Callable[[], Sequence[str]] = tuple,
        trace: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._name = f" {network}" if network else ""
        if not urls:
            raise UsageError("this network has no RPC address", hint=f"microwallet network show{self._name}")
        self._endpoints = [Endpoint(url) for url in urls]
        self._timeout = timeout
        self.chain_id = None if chain_id is None else ChainId(chain_id)
        self._network_of = network_of
        self._devnets = devnets
        self._trace = trace
        self._proven: dict[Endpoint, float] = {}
        """When each address last proved its chain, by the monotonic clock."""
        self._preferred = 0
        self._ids = itertools.count(1)

    def __repr__(self) -> str:
        return f"Rpc({self.shown})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        for endpoint in getattr(self, "_endpoints", ()):
            endpoint.close()

    def close(self) -> None:
        """Close idle connections; the next call opens new ones."""
        for endpoint in self._endpoints:
            endpoint.close()

    @property
    def shown(self) -> str:
        """The address in use, without its secrets."""
        return self._endpoints[self._preferred].shown

    @property
    def is_local(self) -> bool:
        """Whether every address is on this machine, as a local Anvil's is."""
        return all(endpoint.is_local for endpoint in self._endpoints)

    def call(self, method: str, params: Sequence[Any] = ()) -> Any:
        """The result of one request.

        Raises RpcError for a JSON-RPC error, WrongChain, and NetworkError when no address gave an
        answer in time.
        """
        (answer,) = self._answers([(method, params)], Deadline(self._timeout))
        if isinstance(answer, RpcError):
            raise answer
        return answer

    def batch(self, requests: Sequence[Request]) -> list[Any]:
        """The results of many requests, in order; the first JSON-RPC error is raised."""
        answers = self.try_batch(requests)
        for answer in answers:
            if isinstance(answer, RpcError):
                raise answer
        return answers

    def try_batch(self, requests: Sequence[Request]) -> list[Any]:
        """As `batch`, with an RpcError object in the place of each request that failed."""
        deadline = Deadline(self._timeout)
        answers: list[Any] = []
        for start in range(0, len(requests), BATCH_SIZE):
            answers += self._answers(requests[start : start + BATCH_SIZE], deadline)
        return answers

    def _answers(self, requests: Sequence[Request], deadline: Deadline) -> list[Any]:
        failures: dict[str, str] = {}
        listens = was_asked = False
        for index, sharers in self._tries(deadline):
            endpoint = self._endpoints[index]
            try:
                answers = self._ask(endpoint, requests, deadline.share(sharers))
            except TimeoutError:
                failures.setdefault(endpoint.shown, "timed out")
                break
            except TransportError as error:
                self._proven.pop(endpoint, None)  # what answers there next may be another chain
                listens = error.sent
                was_asked = was_asked or error.sent
                failures[endpoint.shown] = str(error).replace("timed out", f"timed out ({self._timeout:g} s)")
                if error.sent and not _are_repeatable(requests):
                    break
            except _Busy as error:
                listens = True
                failures[endpoint.shown] = str(error)
                _pause(error.seconds, deadline)
            else:
                self._preferred = index
                for answer in answers:
                    if isinstance(answer, RpcError):
                        answer.was_asked_before = was_asked
                return answers
        raise self._unanswered(failures, listens=listens)

    def _tries(self, deadline: Deadline) -> Iterator[tuple[int, int]]:
        """Each address in turn, the last good one first, for a few rounds; and by how many the time that is
        left is shared: on the first round a silent address may not eat that of those after it."""
        first, count = self._preferred, len(self._endpoints)
        for number in range(_ROUNDS):
            if number:
                _pause(_FIRST_PAUSE * 2 ** (number - 1), deadline)
            for step in range(count):
                yield (first + step) % count, 1 if number else count - step

    def _unanswered(self, failures: Mapping[str, str], *, listens: bool) -> NetworkError:
        """What each address did; the hint is another one where a local chain does not even listen."""
        said = "; ".join(f"{shown} {reason}" for shown, reason in failures.items())
        hint = f"microwallet network check{self._name}"
        if self.is_local:
            hint = f"microwallet network show{self._name}" if listens else self._local_chain()
        return NetworkError(f"the chain could not be asked: {said}", hint=hint)

    def _local_chain(self) -> str:
        """How to come to the chain where nobody listens: at the address that it has, or by starting it."""
        tried = {endpoint.shown for endpoint in self._endpoints}
        for url in self._devnets():
            if url not in tried:
                return f"--rpc-url {url}"
        up = f"microwallet devnet up --port {self._endpoints[0].port}"
        return up if self.chain_id in (None, LOCAL_CHAIN_ID) else f"{up} --chain-id {self.chain_id}"

    def _ask(self, endpoint: Endpoint, requests: Sequence[Request], deadline: Deadline) -> list[Any]:
        proven_at = self._proven.get(endpoint, float("-inf"))
        if self.chain_id is not None and time.monotonic() - proven_at >= PROVEN_SECONDS:
            (found,) = self._exchange(endpoint, [("eth_chainId", ())], deadline)
            self._prove(endpoint, found)
        answers = self._exchange(endpoint, requests, deadline)
        for answer in answers:
            if isinstance(answer, RpcError) and answer.error_code in _RATE_LIMITED:
                raise _Busy(f"is busy: {answer.rpc_message}", None)
        return answers

    def _prove(self, endpoint: Endpoint, found: Any) -> None:
        if isinstance(found, RpcError):
            raise TransportError(f"does not tell its chain id: {found.rpc_message}", sent=False)
        try:
            chain_id = int(found[:66], 16)
        except (LookupError, TypeError, ValueError) as error:
            raise TransportError("does not tell its chain id", sent=False) from error
        if chain_id != self.chain_id:
            other = self._network_of(chain_id)
            raise WrongChain(
                f"{endpoint.shown} is chain {chain_id}; chain {self.chain_id} is expected",
                hint=f"--network {other}" if other else f"microwallet network show{self._name}",
            )
        self._proven[endpoint] = time.monotonic()

    def _exchange(self, endpoint: Endpoint, requests: Sequence[Request], deadline: Deadline) -> list[Any]:
        methods = Counter(method for method, _ in requests)
        self._trace(f"{endpoint.shown} {', '.join(f'{name} x {n}' for name, n in methods.items())}")
        ids = [next(self._ids) for _ in requests]
        numbered = [
            {"jsonrpc": "2.0", "id": number, "method": method, "params": list(params)}
            for number, (method, params) in zip(ids, requests, strict=True)
        ]
        is_single = len(requests) == 1
        document = numbered[0] if is_single else numbered
        body = json.dumps(document, separators=(",", ":")).encode()
        status, retry_after, content = endpoint.post(body, deadline, reuse=_are_repeatable(requests))
        if status == 429:
            raise _Busy("is busy (HTTP 429)", retry_after_seconds(retry_after))
        answer = _parsed(status, content)
        where = endpoint.shown
        if is_single:
            return [_result(answer, ids[0], where)]
        if isinstance(answer, dict):
            # Servers without batches answer with one error: ask one by one.
            return [
                answer for request in requests for answer in self._exchange(endpoint, [request], deadline)
            ]
        by_id = {
            item["id"]: item for item in answer if isinstance(item, dict) and type(item.get("id")) is int
        }
        return [_result(by_id.get(number), number, where) for number in ids]


class _Busy(Exception):
    """The server asks to come back later."""

    def __init__(self, message: str, seconds: float | None) -> None:
        super().__init__(message)
        self.seconds = seconds


def _are_repeatable(requests: Sequence[Request]) -> bool:
    """Whether asking twice does what asking once does; the same signed bytes are one transaction."""
    return all(method.startswith(_READS) and method not in _NOT_READS for method, _ in requests)


def _parsed(status: int, content: bytes) -> Any:
    if not content.strip():
        raise TransportError(f"answered with nothing (HTTP {status})", sent=True)
    try:
        answer = parse_json(content)
    except ValueError as error:
        what = "with something that is not JSON" if status == 200 else f"HTTP {status}"
        raise TransportError(f"answered {what}", sent=True) from error
    is_rpc = isinstance(answer, list) or (
        isinstance(answer, dict) and ("result" in answer or "error" in answer)
    )
    if not is_rpc or (status != 200 and not (isinstance(answer, dict) and "error" in answer)):
        raise TransportError(
            f"answered HTTP {status}" if status != 200 else "did not answer in JSON-RPC", sent=True
        )
    if status >= 500 and not isinstance(answer["error"], dict):
        raise TransportError(f"answered HTTP {status}", sent=True)
    return answer


def _result(answer: Any, number: int, where: str) -> Any:
    if not isinstance(answer, dict):
        raise TransportError("did not answer every request", sent=True)
    error = answer.get("error")
    if error is not None:
        if not isinstance(error, dict):
            error = {"message": str(error)}
        code = error.get("code")
        return RpcError(
            one_line(str(error.get("message", "an error without a message"))),
            error_code=code if isinstance(code, int) else None,
            error_data=error.get("data"),
            where=where,
        )
    if answer.get("id") != number or "result" not in answer:
        raise TransportError("answered another request", sent=True)
    return answer["result"]


def _pause(seconds: float | None, deadline: Deadline) -> None:
    wanted = _FIRST_PAUSE if seconds is None else seconds
    try:
        time.sleep(min(wanted, deadline.remaining()))
    except TimeoutError:
        return
