"""Replies of an OpenAI-compatible server, through its chat completions; the protocol as the OpenAI API reference says.

A request that fails for a reason that may pass (no connection, a timeout, 408, 409, 425, 429, 5xx, or an answer that
is none) is made again after 1, 2, 4 … seconds, or as many as the server asks for. A reason that will not pass (a wrong
key, an unknown model) ends the evaluation at once; what was answered is kept.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING

from pydantic import BaseModel, ValidationError

from hfkit.errors import RequestError, WorkError
from hfkit.evaluation.rows import Failed, Generation, GenerationRow
from hfkit.recipe import Endpoint

if TYPE_CHECKING:
    import httpx

LONGEST_WAIT = 60.0
_MAY_PASS = frozenset({408, 409, 425, 429})


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
) -> Iterator[tuple[int, Generation | Failed]]:
    """The reply to each row, with its number, as soon as it is there; greedy, as far as the server does as it is told.

    Raises:
        RequestError: the key is not in the environment.
        WorkError: the server refuses, for a reason that will not pass.
    """
    import httpx

    headers = _headers(endpoint)
    with (
        httpx.Client(timeout=endpoint.timeout, headers=headers, follow_redirects=False) as client,
        ThreadPoolExecutor(endpoint.parallel) as pool,
    ):
        asked = {pool.submit(_reply, client, endpoint, row, max_new_tokens): number for number, row in enumerate(rows)}
        try:
            for done in as_completed(asked):
                yield asked[done], done.result()
        finally:
            # Whoever stops listening, or was refused, waits for no more than what is under way.
            pool.shutdown(wait=False, cancel_futures=True)


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


def _reply(client: httpx.Client, endpoint: Endpoint, row: GenerationRow, max_new_tokens: int) -> Generation | Failed:
    body = {
        "model": endpoint.model,
        "messages": [turn.for_template() for turn in row.messages],
        "max_tokens": max_new_tokens,
        "temperature": 0,
        "stream": False,
        **({"tools": [dict(tool) for tool in row.tools]} if row.tools else {}),
    }
    url = f"{endpoint.endpoint.rstrip('/')}/chat/completions"
    for attempt in range(endpoint.retries + 1):
        try:
            return _once(client, url, body)
        except _Passing as failure:
            if attempt == endpoint.retries:
                tries = "one try" if attempt == 0 else f"{attempt + 1} tries"
                return Failed(reason=f"the endpoint gave no answer in {tries}: {failure}")
            time.sleep(min(failure.wait if failure.wait is not None else 2.0**attempt, LONGEST_WAIT))
    raise AssertionError("the last try returns")


def _once(client: httpx.Client, url: str, body: dict[str, object]) -> Generation | Failed:
    import httpx

    try:
        response = client.post(url, json=body)
    except httpx.TimeoutException as error:
        raise _Passing("timed out") from error
    except httpx.TransportError as error:
        raise _Passing(f"no connection ({type(error).__name__})") from error
    status = response.status_code
    if status in _MAY_PASS or status >= 500:
        raise _Passing(f"status {status}", _asked_wait(response))
    if status in (400, 413, 422):
        # About this row, such as a prompt that is too long.
        return Failed(reason=f"the endpoint refused the request with status {status}: {_said(response)}")
    if status != 200:
        raise WorkError(f"{url}: refused with status {status}: {_said(response)}")
    try:
        completion = _Completion.model_validate_json(response.content)
    except ValidationError as error:
        raise _Passing("what it answered is no chat completion") from error
    if not completion.choices or completion.choices[0].message.content is None:
        raise _Passing("its answer holds no text")
    choice = completion.choices[0]
    return Generation(text=(choice.message.content or "").strip(), stopped=choice.finish_reason != "length")


def _asked_wait(response: httpx.Response) -> float | None:
    value = response.headers.get("retry-after", "")
    return float(value) if value.isascii() and value.isdigit() else None


def _said(response: httpx.Response) -> str:
    """The beginning of what the server said, on one line; without the key, should it say that again."""
    said = response.text
    key = response.request.headers.get("authorization", "").removeprefix("Bearer ")
    if key:
        said = said.replace(key, "…")
    return " ".join(said.split())[:200] or "without a word"
