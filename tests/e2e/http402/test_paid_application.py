"""An application of one's own that is paid for: the middleware in Starlette and in FastAPI."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import re
import signal
import subprocess
import sys
import time
import types
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from waiting import wait_until

import microwallet
from microwallet import selling
from microwallet.http402.wire.challenge import offered_challenges
from microwallet.payee.exclusive import is_watched

PROGRAM = """
import os
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route
import microwallet

async def article(request):
    return PlainTextResponse(f"{os.getpid()} for {request.headers['x-payment-payer']}")

async def events(request):
    async def numbers():
        for number in range(9):
            yield f"data: {number}\\n\\n"
    return StreamingResponse(numbers(), media_type="text/event-stream")

app = Starlette(
    routes=[Route("/article", article), Route("/events", events)],
    middleware=[
        Middleware(
            microwallet.PaymentMiddleware,
            realm="api.example",
            routes=[
                {"path": "/article", "price": "0.001 USDC", "suggested-deposit": "0.5 USDC"},
                {"path": "/events", "price": "0.001 USDC", "per": "event"},
            ],
        )
    ],
)
"""
FASTAPI_PROGRAM = """
from typing import Annotated
from fastapi import Depends, FastAPI, Header, HTTPException
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
import microwallet

app = FastAPI()
app.add_middleware(
    microwallet.PaymentMiddleware,
    realm="api.example",
    routes=[
        {"method": "GET", "path": "/about", "free": True},
        {"method": "GET", "path": "/articles/*", "price": "0.001 USDC"},
        {"method": "POST", "path": "/orders", "price": "0.002 USDC"},
        {"method": "GET", "path": "/counts/*", "price": "0.0001 USDC", "per": "event"},
    ],
)

class Order(BaseModel):
    tea: int

def customer(x_payment_payer: Annotated[str, Header()], x_payment_amount: Annotated[int, Header()]):
    return {"payer": x_payment_payer, "amount": x_payment_amount}

Customer = Annotated[dict, Depends(customer)]

@app.get("/about")
async def about(x_payment_payer: Annotated[str | None, Header()] = None):
    return {"payer": x_payment_payer}

@app.get("/articles/{number}")
def article(number: int, customer: Customer):
    if number == 404:
        raise HTTPException(404, "no such article")
    if number == 500:
        raise RuntimeError("broken")
    return {"number": number, **customer}

@app.post("/orders")
async def order(order: Order, customer: Customer):
    return {"tea": order.tea, **customer}

@app.get("/counts/{count}")
async def counts(count: int, customer: Customer):
    async def numbers():
        for number in range(count):
            yield f"data: {number} for {customer['payer']}\\n\\n"
    return StreamingResponse(numbers(), media_type="text/event-stream")
"""
ROUTES = [{"path": "/article", "price": "0.001 USDC"}, {"path": "/", "free": True}]


async def article(request):
    return PlainTextResponse(f"paid by {request.headers.get('x-payment-payer', 'nobody')}")


@pytest.fixture
def application(bob):
    """Makes an application of bob's that notes when it starts and stops."""
    said = []

    @asynccontextmanager
    async def lifespan(_app):
        said.append("started")
        yield
        said.append("stopped")

    def make(**options):
        paid = Middleware(
            microwallet.PaymentMiddleware,
            **{
                "routes": ROUTES,
                "realm": "api.example",
                "home": bob.path,
                "rpc_url": bob.settings["MICROWALLET_RPC_URL"],
                "password_file": bob.password_file,
            }
            | options,
        )
        routes = [Route("/article", article), Route("/", article), Route("/other", article)]
        app = Starlette(routes=routes, middleware=[paid], lifespan=lifespan)
        app.state.said = said
        return app

    return make


@asynccontextmanager
async def alive(app):
    """The application between start and stop, as a server sees to it; yields its answer to the start."""
    to_app, answers = asyncio.Queue(), asyncio.Queue()
    task = asyncio.create_task(app({"type": "lifespan", "asgi": {}}, to_app.get, answers.put))
    await to_app.put({"type": "lifespan.startup"})
    started = await answers.get()
    yield started
    if started["type"].endswith("complete"):
        await to_app.put({"type": "lifespan.shutdown"})
        assert (await answers.get())["type"] == "lifespan.shutdown.complete"
        app.state.said.append("told")
    await task


@pytest.fixture
def served(bob, tmp_path):
    """Starts uvicorn with an application of bob's; its address."""

    @contextmanager
    def run(program, *, workers):
        (tmp_path / "paid.py").write_text(program, encoding="utf-8")
        command = [sys.executable, "-m", "uvicorn", "paid:app", "--port", "0", "--no-access-log"]
        command += ["--workers", str(workers)]
        process = subprocess.Popen(
            command, cwd=tmp_path, env=bob.environment, stderr=subprocess.PIPE, text=True
        )
        try:
            url, started = None, 0
            while url is None or started < workers:
                line = process.stderr.readline()
                assert line, "it has ended"
                if found := re.search(r"running on (http://[0-9.:]+)", line):
                    url = found[1]
                started += "startup complete" in line
            yield url, process
        finally:
            process.send_signal(signal.SIGTERM)
            sys.stderr.write(process.communicate(timeout=30)[1])  # shown where a test fails

    return run


def opened(home):
    return microwallet.Wallet.open(
        home.path, rpc_url=home.settings["MICROWALLET_RPC_URL"], password_file=home.password_file
    )


def test_lives_as_long_as_the_application(application, bob, chain):
    """Open before the application starts; closed, its watch given up, before the server hears of the stop."""
    app = application()

    async def program():
        async with alive(app) as started:
            assert started["type"] == "lifespan.startup.complete"
            await asyncio.sleep(0.05)
            assert is_watched(bob.path, chain.chain_id)
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                unpaid = await client.get("/article")
                assert unpaid.status_code == 402
                [challenge] = offered_challenges(unpaid.headers.get_list("www-authenticate")).challenges
                assert challenge.realm == "api.example"
                forged = await client.get("/", headers={"X-Payment-Payer": "me"})
                assert (forged.status_code, forged.text) == (200, "paid by nobody")
                assert (await client.get("/other")).status_code == 404
        assert not is_watched(bob.path, chain.chain_id)

    asyncio.run(program())
    assert app.state.said == ["started", "stopped", "told"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"routes": [{"path": "/a", "price": "much"}]}, "'much' is not an amount"),
        ({"routes": [{"path": "/a", "cost": "1 USDC"}]}, "there is no setting 'cost'"),
        ({"settle_above": "1 GOLD"}, "GOLD"),
        ({"settle_idle": 600}, "settle-idle is 600; a text is expected"),
        ({"settle_idle": "soon"}, "settle-idle: 'soon' is not a duration"),
        ({"realm": None}, "realm is None; a text is expected"),
        ({"realm": "a\x00"}, r"realm: 'a\x00' holds a control character"),
    ],
)
def test_a_wrong_table_fails_the_start(application, options, message):
    """The server is told what is wrong, and the application never starts. Then it is raised, as Starlette
    does: its TestClient takes the application for started without that, and waits for its end for ever."""
    app = application(**options)

    async def program():
        with pytest.raises(microwallet.UsageError, match=re.escape(message)):
            async with alive(app) as started:
                assert started["type"] == "lifespan.startup.failed"
                assert message in started["message"]

    asyncio.run(program())
    assert app.state.said == []


def test_what_is_wrong_is_a_warning_in_the_log(application, caplog):
    """Servers show warnings unless they are told not to: a route that no request reaches, and a chain that is
    away, for as long as it is, which is told once. Each is a line for a person, its message first."""
    shadowed = [{"path": "/**", "free": True}, ROUTES[0]]
    app = application(routes=shadowed, rpc_url="http://127.0.0.1:1")

    async def program():
        async with alive(app):
            await asyncio.to_thread(wait_until, lambda: "127.0.0.1:1 refused" in caplog.text)

    asyncio.run(program())
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [text.partition(" ")[0] for text in warnings] == ["warning:", "interrupted:"]
    assert warnings[0].startswith("warning: no request reaches route 2")
    assert "{" not in "".join(warnings)


def test_what_nobody_expects_is_no_end_of_watching(application, bob, chain, caplog, monkeypatch):
    """It is in the log, and channels are watched again soon, as the application goes on selling."""
    monkeypatch.setattr(selling, "LOOK_SECONDS", 0.01)
    look, failures = selling.Shop._look_alone, [ZeroDivisionError("a mistake of ours")]

    async def look_alone(shop):
        if failures:
            raise failures.pop()
        await look(shop)

    monkeypatch.setattr(selling.Shop, "_look_alone", look_alone)

    async def program():
        async with alive(application()):
            await asyncio.to_thread(wait_until, lambda: "a mistake of ours" in caplog.text)
            await asyncio.to_thread(wait_until, lambda: is_watched(bob.path, chain.chain_id))

    asyncio.run(program())
    assert not is_watched(bob.path, chain.chain_id)


@pytest.mark.parametrize("fails", [True, False])
def test_an_application_without_lifespan(bob, chain, fails):
    """One that knows requests alone: the middleware lives as long as the server says, and ends in order."""

    async def plain(scope, receive, send):
        if scope["type"] == "http":
            await PlainTextResponse("sold")(scope, receive, send)
        elif fails:
            raise ValueError("only http is known here")

    plain.state = types.SimpleNamespace(said=[])
    app = microwallet.PaymentMiddleware(
        plain,
        routes=ROUTES,
        realm="api.example",
        home=bob.path,
        rpc_url=bob.settings["MICROWALLET_RPC_URL"],
        password_file=bob.password_file,
    )
    app.state = plain.state

    async def program():
        async with alive(app) as started:
            assert started["type"] == "lifespan.startup.complete"
            await asyncio.sleep(0.05)
            assert is_watched(bob.path, chain.chain_id)
            assert list(bob.path.glob("payee-in-hand-*"))
        assert not is_watched(bob.path, chain.chain_id)
        assert not list(bob.path.glob("payee-in-hand-*"))

    asyncio.run(program())


def test_a_server_without_lifespan(application):
    """Then it is opened by the first request."""

    async def program():
        transport = httpx.ASGITransport(application())
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            assert (await client.get("/article")).status_code == 402

    asyncio.run(program())


def test_an_event_loop_for_each_request(application, alice, bob, open_files):
    """As Starlette's TestClient has one, in a thread that ends with it, where it is used without `with`; and
    several at a time where threads share the client. Each request is sold, and little stays open."""
    app = application()

    class Inside(httpx.BaseTransport):
        def handle_request(self, request):
            async def ask():
                answer = await httpx.ASGITransport(app).handle_async_request(
                    httpx.Request(request.method, request.url, headers=request.headers)
                )
                return httpx.Response(
                    answer.status_code, headers=answer.headers, content=await answer.aread()
                )

            with ThreadPoolExecutor(1) as thread:
                answer = thread.submit(asyncio.run, asyncio.wait_for(ask(), 20)).result()
            return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    with opened(alice) as wallet:
        paying = microwallet.PayingTransport(Inside(), wallet=wallet, max_deposit="1 USDC")
        with httpx.Client(transport=paying, base_url="http://127.0.0.1") as client:
            for _ in range(3):
                assert client.get("/article").text == f"paid by {alice.address}"
            with ThreadPoolExecutor(4) as threads:
                answers = list(threads.map(client.get, ["/article"] * 8))
        assert [answer.text for answer in answers] == [f"paid by {alice.address}"] * 8
        [channel] = wallet.channels()
        assert str(channel.spent) == "0.011 USDC"
    gc.collect()
    assert sum(name.startswith("payee-in-hand") for name in open_files(bob)) <= 4


@pytest.mark.parametrize(
    ("url", "client", "status"),
    [
        ("http://shop.example", "192.0.2.7", 403),
        ("http://127.0.0.1", "::ffff:192.0.2.7", 403),
        ("https://shop.example", "192.0.2.7", 402),
        ("http://shop.example", "127.0.0.1", 402),
        ("http://127.0.0.1", "::1", 402),
        ("http://testserver", "testclient", 402),
    ],
)
def test_nothing_of_payments_goes_in_the_clear(application, url, client, status):
    """From another machine over plain http, as far as the server knows: neither is a challenge given, nor a
    credential read, be it for a stream. What is free comes as ever, which asks for nothing."""

    async def program():
        transport = httpx.ASGITransport(application(), client=(client, 1234))
        async with httpx.AsyncClient(transport=transport, base_url=url) as asking:
            sold = await asking.get("/article")
            assert (sold.status_code, "www-authenticate" in sold.headers) == (status, status == 402)
            assert status == 402 or "https" in sold.json()["detail"]
            paid = {"authorization": "Payment AAAA"}
            for method in ("GET", "POST", "HEAD"):
                answer = await asking.request(method, "/article", headers=paid)
                assert (answer.status_code == 403) == (status == 403)
            assert (await asking.get("/")).status_code == 200
            assert (await asking.get("/other")).status_code == 404

    asyncio.run(program())


@pytest.mark.filterwarnings("ignore:The `root_path` parameter is deprecated")
def test_an_application_with_a_root_path_of_its_own(bob):
    """Wrapped from around it: FastAPI finds its routes below that, and nothing is free by another path."""
    from fastapi import FastAPI

    fast = FastAPI(root_path="/api")
    fast.add_route("/article", article)
    app = microwallet.PaymentMiddleware(
        fast,
        routes=[ROUTES[0], {"path": "/**", "free": True}],
        realm="api.example",
        home=bob.path,
        rpc_url=bob.settings["MICROWALLET_RPC_URL"],
        password_file=bob.password_file,
    )

    async def program():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return [(await client.get(path)).status_code for path in ("/article", "/api/article")]

    assert asyncio.run(program()) == [402, 402]


def test_an_answer_has_one_date(served):
    """The server's own, which every answer gets from it."""
    with served(PROGRAM, workers=1) as (url, _):
        for path in ("/article", "/nothing"):
            assert len(httpx.get(url + path).headers.get_list("date")) == 1


def test_a_root_path_that_is_a_folder(bob):
    """As Quart has one: it says nothing of a request."""

    class Application:
        root_path = "/srv/application"

        async def __call__(self, scope, receive, send):
            await PlainTextResponse(scope["root_path"])(scope, receive, send)

    app = microwallet.PaymentMiddleware(
        Application(),
        routes=[{"path": "/**", "free": True}],
        realm="api.example",
        home=bob.path,
        rpc_url=bob.settings["MICROWALLET_RPC_URL"],
        password_file=bob.password_file,
    )

    async def program():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
            return (await client.get("/article")).text

    assert asyncio.run(program()) == ""


def test_two_workers_share_what_they_were_paid(served, alice, bob):
    """Forty requests in parallel on one channel, answered by both, and a stream whose vouchers come to
    either; the books agree, and the channel closes over HTTP with what was charged."""
    with served(PROGRAM, workers=2) as (url, process), opened(alice) as payer:
        paying = microwallet.PayingTransport(wallet=payer, max_deposit="1 USDC")
        with httpx.Client(transport=paying) as client, ThreadPoolExecutor(4) as threads:
            answers = list(threads.map(lambda _: client.get(f"{url}/article"), range(40)))
            assert {answer.status_code for answer in answers} == {200}
            assert {answer.text.split(" for ")[1] for answer in answers} == {alice.address}
            deadline = time.monotonic() + 30
            workers = {answer.text.split()[0] for answer in answers}
            while len(workers) < 2 and time.monotonic() < deadline:
                workers.add(payer.request("GET", f"{url}/article").text.split()[0])
            assert len(workers) == 2
            assert {microwallet.payment_of(answer).receipt_problems for answer in answers} == {()}
        with httpx.Client(transport=microwallet.PayingTransport(wallet=payer)) as client:
            with client.stream("GET", f"{url}/events") as answer:
                assert len(re.findall(rb"^data: \d$", answer.read(), flags=re.MULTILINE)) == 9
            assert str(microwallet.payment_of(answer).amount) == "0.009 USDC"
        [channel] = payer.channels()
        with opened(bob) as payee:
            assert str(payee.payee_channels()[0].spent) == str(channel.spent)
        closed = payer.close_channel(channel)
        assert closed.status == "finalized"
        assert closed.settled == channel.spent
        assert process.poll() is None
    assert process.returncode in (0, -signal.SIGTERM)


def test_fastapi(served, alice, bob):
    """Its path parameters, bodies and dependencies are as ever, and a dependency tells who has paid; errors
    of its own cost the price, what breaks costs nothing."""
    with served(FASTAPI_PROGRAM, workers=1) as (url, _):

        def fetch(*words):
            told = alice.run("fetch", *words, "--yes", "--json").data
            payment = told["payment"]
            if payment is not None:
                assert payment["receiptProblems"] == []
            return told["status"], told["body"], None if payment is None else payment["amount"]

        def paid(amount, **answer):
            answer |= {"payer": alice.address, "amount": amount}
            return 200, json.dumps(answer, separators=(",", ":")), str(amount)

        assert fetch(url + "/about", "-H", "X-Payment-Payer: me") == (200, '{"payer":null}', None)
        assert fetch(url + "/articles/7") == paid(1000, number=7)
        tea = ("-H", "Content-Type: application/json", "-d", '{"tea": 2}')
        assert fetch("POST", url + "/orders", *tea) == paid(2000, tea=2)
        assert fetch("POST", url + "/orders", *tea[:3], '{"tea": "much"}')[::2] == (422, "2000")
        assert fetch(url + "/articles/404") == (404, '{"detail":"no such article"}', "1000")
        assert fetch(url + "/articles/500") == (500, "Internal Server Error", None)
        assert [fetch(url + path)[::2] for path in ("/openapi.json", "/orders")] == [(404, None), (404, None)]
        status, body, amount = fetch(url + "/counts/9")
        assert (status, amount) == (200, "900")
        assert [line for line in body.splitlines() if line.endswith(alice.address)] == [
            f"data: {number} for {alice.address}" for number in range(9)
        ]
        with opened(alice) as payer, opened(bob) as payee:
            [theirs], [ours] = payee.payee_channels(), payer.channels()
            assert str(theirs.spent) == str(ours.spent) == "0.0069 USDC"
