"""Replies of an OpenAI-compatible server, through its chat completions; the protocol as the OpenAI API reference says.

A request that fails for a reason that may pass (no connection, a timeout, 408, 409, 425, 429, 5xx, or an answer that
is none) is made again after 1, 2, 4 … seconds, or as many as the server asks for. A reason that will not pass (a wrong
key, an unknown model, a redirect) ends the evaluation at once; what was answered is kept.
"""

from __future__ import annotations

import asyncio
import os
import zlib
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import as_completed
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING

from pydantic import BaseModel, ValidationError

from hfkit.errors import RequestError, WorkError
from hfkit.evaluation.rows import Failed, Generation, GenerationRow
from hfkit.recipe import Endpoint

if TYPE_CHECKING:
    import httpx

LONGEST_WAIT = 60.0
LARGEST_ANSWER = 16 * 2**20
"""Bytes, unpacked. A reply of a hundred thousand tokens has about half a million."""

_MAY_PASS = frozenset({408, 409, 425, 429})
# Of what a server says beside a status of failure. Only its beginning is told.
_LARGEST_SAID = 64 * 2**10


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Completion(BaseModel):
    choices: list[_Choice]


class _Passing(Exception):
    """Why a request failed that may succeed the next time; `wait` is what the server asks for, in seconds."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


def chat_replies(
    endpoint: Endpoint, rows: Sequence[GenerationRow], *, max_new_tokens: int
) -> Generator[tuple[int, Generation | Failed], None, None]:
    """The reply to each row, with its number, as soon as it is there; greedy, as far as the server does as it is told.
    Close it where not all are taken: what is under way is then broken off.

    Raises:
        RequestError: the key is not in the environment.
        WorkError: the server refuses, for a reason that will not pass.
    """
    with _client(endpoint) as (client, loop):
        places = asyncio.Semaphore(endpoint.parallel)
        asked = {
            asyncio.run_coroutine_threadsafe(_reply(client, places, endpoint, row, max_new_tokens), loop): number
            for number, row in enumerate(rows)
        }
        for done in as_completed(asked):
            yield asked[done], done.result()


@contextmanager
def _client(endpoint: Endpoint) -> Iterator[tuple[httpx.AsyncClient, asyncio.AbstractEventLoop]]:
    """A client, and the event loop that it is to be used in. At the end, whatever is still under way is broken off.

    The client is asynchronous since a deadline for a whole request, from the connection to the last byte, takes work
    that can be broken off at any point: a time limit for each read is never met by a server that sends a byte now and
    then. The loop has a thread of its own, since that of the caller may run one already, as a notebook's does.
    """
    import httpx

    client = httpx.AsyncClient(
        # One deadline is for all of it, in `_in_time`.
        timeout=None,
        limits=httpx.Limits(max_connections=endpoint.parallel),
        # What is unpacked elsewhere than in `_unpacked` has no bound.
        headers={**_headers(endpoint), "Accept-Encoding": "gzip"},
        follow_redirects=False,
    )
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, name="endpoint", daemon=True)
    thread.start()
    try:
        yield client, loop
    finally:
        asyncio.run_coroutine_threadsafe(_break_off(client), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _break_off(client: httpx.AsyncClient) -> None:
    # Again and again: a task that is cancelled at the moment in which its request fails goes on to the next try.
    while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=0.1)
    await client.aclose()
    # Answers that were left before their end are generators that nobody has closed.
    await asyncio.get_running_loop().shutdown_asyncgens()


def _headers(endpoint: Endpoint) -> dict[str, str]:
    if endpoint.key_env is None:
        return {}
    key = os.environ.get(endpoint.key_env, "").strip()
    if not key:
        raise RequestError(
            f"{endpoint.endpoint}: the environment variable {endpoint.key_env}, which key_env names, is not set"
        )
    if not key.isascii() or not key.isprintable():
        raise RequestError(f"the environment variable {endpoint.key_env} holds what cannot be a key")
    return {"Authorization": f"Bearer {key}"}


async def _reply(
    client: httpx.AsyncClient, places: asyncio.Semaphore, endpoint: Endpoint, row: GenerationRow, max_new_tokens: int
) -> Generation | Failed:
    body = {
        "model": endpoint.model,
        "messages": [turn.for_template() for turn in row.messages],
        "max_tokens": max_new_tokens,
        "temperature": 0,
        "stream": False,
        **({"tools": [dict(tool) for tool in row.tools]} if row.tools else {}),
    }
    url = f"{endpoint.endpoint.rstrip('/')}/chat/completions"
    async with places:
        for attempt in range(endpoint.retries + 1):
            try:
                return await _in_time(client, url, body, endpoint.timeout)
            except _Passing as failure:
                if attempt == endpoint.retries:
                    tries = "one try" if attempt == 0 else f"{attempt + 1} tries"
                    return Failed(reason=f"the endpoint gave no answer in {tries}: {failure}")
                await asyncio.sleep(min(failure.wait if failure.wait is not None else 2.0**attempt, LONGEST_WAIT))
    raise AssertionError("the last try returns")


async def _in_time(client: httpx.AsyncClient, url: str, body: dict[str, object], seconds: float) -> Generation | Failed:
    import httpx

    try:
        return await asyncio.wait_for(_once(client, url, body), seconds)
    except asyncio.TimeoutError as error:
        raise _Passing("timed out") from error
    except httpx.TransportError as error:
        raise _Passing(f"no connection ({type(error).__name__})") from error


async def _once(client: httpx.AsyncClient, url: str, body: dict[str, object]) -> Generation | Failed:
    async with client.stream("POST", url, json=body) as response:
        status = response.status_code
        most = LARGEST_ANSWER if status == 200 else _LARGEST_SAID
        received = bytearray()
        async for part in response.aiter_raw():
            received += part
            if len(received) > most:
                break
    content = _unpacked(response, bytes(received), most)
    if status in _MAY_PASS or status >= 500:
        raise _Passing(f"status {status}", _asked_wait(response))
    if 300 <= status < 400:
        raise WorkError(f"{url}: {_redirected(response)}")
    if status in (400, 413, 422):
        # About this row, such as a prompt that is too long.
        return Failed(reason=f"the endpoint refused the request with status {status}: {_said(response, content)}")
    if status != 200:
        raise WorkError(f"{url}: refused with status {status}: {_said(response, content)}")
    if content is None:
        raise _Passing("what it answered cannot be unpacked")
    if len(content) > LARGEST_ANSWER:
        return Failed(reason=f"the endpoint's answer is larger than {LARGEST_ANSWER:,} bytes")
    try:
        completion = _Completion.model_validate_json(content)
    except ValidationError as error:
        raise _Passing("what it answered is no chat completion") from error
    if not completion.choices or completion.choices[0].message.content is None:
        raise _Passing("its answer holds no text")
    choice = completion.choices[0]
    return Generation(text=(choice.message.content or "").strip(), stopped=choice.finish_reason != "length")


def _unpacked(response: httpx.Response, content: bytes, most: int) -> bytes | None:
    """The content as it was before it was compressed, of which at most one byte more than `most`. None where it is not
    what the headers say, or is compressed in a way that was not asked for."""
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding in ("identity", ""):
        return content
    if encoding not in ("gzip", "x-gzip"):
        return None
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(content, most + 1)
    except zlib.error:
        return None


def _asked_wait(response: httpx.Response) -> float | None:
    value = response.headers.get("retry-after", "")
    return float(value) if value.isascii() and value.isdigit() else None


def _redirected(response: httpx.Response) -> str:
    """That the server is elsewhere, and what to write for it in the recipe."""
    if response.next_request is None:
        return f"redirected with status {response.status_code}, without an address"
    target = _without_key(response, str(response.next_request.url))
    base = target.removesuffix("/chat/completions")
    return (
        f"redirected with status {response.status_code} to {target}; redirects are not followed, since they would take "
        f"prompts and key elsewhere; if you trust that server, set endpoint to {base}"
    )


def _said(response: httpx.Response, content: bytes | None) -> str:
    """The beginning of what the server said, on one line; without the key, should it say that again."""
    # As UTF-8 whatever the headers say: they may name a codec of Python's that is none for text.
    return _without_key(response, (content or b"").decode("utf-8", "replace")) or "without a word"


def _without_key(response: httpx.Response, said: str) -> str:
    key = response.request.headers.get("authorization", "").removeprefix("Bearer ")
    if key:
        said = said.replace(key, "…")
    return " ".join(said.split())[:200]
