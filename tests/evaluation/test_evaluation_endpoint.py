"""Models and judges behind an OpenAI-compatible server: a tiny one on this machine, well-behaved or not."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from hfkit.data.conversation import Turn
from hfkit.errors import RequestError, WorkError
from hfkit.evaluation import endpoint as module
from hfkit.evaluation.endpoint import chat_replies
from hfkit.evaluation.rows import Failed, Generation, GenerationRow
from hfkit.recipe import Endpoint

KEY = "sk-very-secret"

Reply = tuple[int, bytes, dict[str, str]]


class Server:
    """Answers with what `say` gives for (request body, how often this prompt was asked before)."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.say: Callable[[dict[str, Any], int], Reply] = lambda body, before: completion("fine")
        lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    before = sum(one["messages"] == body["messages"] for one in server.requests)
                    server.requests.append({**body, "path": self.path})
                    server.keys.append(self.headers.get("Authorization"))
                status, content, headers = server.say(body, before)
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments: object) -> None:
                """Says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextlib.contextmanager
def trickling(pieces: Sequence[bytes], pause: float) -> Iterator[str]:
    """The address of a server that answers with these bytes, headers and all, and waits behind each piece."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            with contextlib.suppress(OSError):
                for piece in pieces:
                    self.wfile.write(piece)
                    time.sleep(pause)

        def log_message(self, *arguments: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as started:
        threading.Thread(target=started.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{started.server_address[1]}/v1"
        finally:
            started.shutdown()


def completion(text: str | None, finish: str = "stop") -> Reply:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return 200, json.dumps({"object": "chat.completion", "choices": [choice]}).encode(), {}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(module, "LONGEST_WAIT", 0.01)
    started = Server()
    yield started
    started.close()


def row(text: str) -> GenerationRow:
    messages = (Turn(role="system", content="Be brief."), Turn(role="user", content=text))
    return GenerationRow(id=text, group=text, messages=messages, references=())


def replies(endpoint: Endpoint, *texts: str) -> list[Any]:
    found = dict(chat_replies(endpoint, [row(text) for text in texts], max_new_tokens=7))
    return [found[number] for number in range(len(texts))]


def last(body: dict[str, Any]) -> str:
    return str(body["messages"][-1]["content"])


def test_rows_are_asked_as_they_are_and_matched_to_their_replies(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HFKIT_TEST_KEY", KEY)
    server.say = lambda body, before: completion(f" {last(body).upper()} ", "length" if "b" in last(body) else "stop")
    endpoint = Endpoint(endpoint=server.address + "/", model="some-model", key_env="HFKIT_TEST_KEY")
    assert replies(endpoint, "a", "b", "c", "d", "e") == [
        Generation(text=text, stopped=text != "B") for text in "ABCDE"
    ]
    assert set(server.keys) == {f"Bearer {KEY}"}
    asked = next(body for body in server.requests if last(body) == "a")
    assert asked == {
        "model": "some-model",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a"}],
        "max_tokens": 7,
        "temperature": 0,
        "stream": False,
        "path": "/v1/chat/completions",
    }


def test_no_key_is_sent_that_was_not_named(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-x")
    replies(Endpoint(endpoint=server.address, model="m"), "a")
    assert server.keys == [None]
    monkeypatch.delenv("HFKIT_TEST_KEY", raising=False)
    with pytest.raises(RequestError, match="the environment variable HFKIT_TEST_KEY, which key_env names, is not set"):
        replies(Endpoint(endpoint=server.address, model="m", key_env="HFKIT_TEST_KEY"), "a")


@pytest.mark.parametrize(
    "trouble",
    [
        (503, b"busy", {}),
        (429, b"slow down", {"Retry-After": "0"}),
        (200, b"<html>", {}),
        (200, b"", {}),
        (200, b'{"choices": []}', {}),
        (200, b'{"choices": [{"message": {"content": null}}]}', {}),
        (200, b"not gzip at all", {"Content-Encoding": "gzip"}),
        (200, b"whatever this is", {"Content-Encoding": "br"}),
    ],
    ids=["503", "429", "html", "empty", "no choice", "no text", "garbage", "unasked packing"],
)
def test_what_may_pass_is_tried_again_and_then_counted(server: Server, trouble: Reply) -> None:
    server.say = lambda body, before: trouble if last(body) == "bad" or before < 2 else completion("at last")
    good, bad = replies(Endpoint(endpoint=server.address, model="m", retries=2), "good", "bad")
    assert good == Generation(text="at last", stopped=True)
    assert isinstance(bad, Failed) and bad.reason.startswith("the endpoint gave no answer in 3 tries: ")
    assert sum(last(body) == "bad" for body in server.requests) == 3


def test_a_timeout_and_a_server_that_is_not_there_are_counted(server: Server) -> None:
    def slow(body: dict[str, Any], before: int) -> Reply:
        time.sleep(0.6)
        return completion("too late")

    server.say = slow
    (said,) = replies(Endpoint(endpoint=server.address, model="m", timeout=0.1, retries=1), "a")
    assert said == Failed(reason="the endpoint gave no answer in 2 tries: timed out")
    (said,) = replies(Endpoint(endpoint="http://127.0.0.1:9/v1", model="m", retries=0), "a")
    assert isinstance(said, Failed) and "in one try: no connection" in said.reason


@pytest.mark.parametrize("part", ["headers", "body"])
def test_the_time_is_for_the_whole_reply_and_not_for_each_read(part: str) -> None:
    _, content, _ = completion("at last")
    head, blanks = f"HTTP/1.0 200 OK\r\nContent-Length: {60 + len(content)}\r\n".encode(), [b" "] * 60
    if part == "headers":
        pieces = [head + b"X-Slow: x", *blanks, b"x\r\n\r\n", b"".join(blanks) + content]
    else:
        pieces = [head + b"\r\n", *blanks, content]
    with trickling(pieces, pause=0.05) as address:
        (said,) = replies(Endpoint(endpoint=address, model="m", timeout=0.4, retries=0), "a")
    assert said == Failed(reason="the endpoint gave no answer in one try: timed out")


@pytest.mark.parametrize("packed", [False, True])
def test_an_answer_is_taken_up_to_a_bound(server: Server, monkeypatch: pytest.MonkeyPatch, packed: bool) -> None:
    monkeypatch.setattr(module, "LARGEST_ANSWER", 2000)

    def say(body: dict[str, Any], before: int) -> Reply:
        status, content, headers = completion("x" * (2000 if last(body) == "large" else 20))
        return (status, gzip.compress(content), {"Content-Encoding": "gzip"}) if packed else (status, content, headers)

    server.say = say
    small, large = replies(Endpoint(endpoint=server.address, model="m", retries=0), "small", "large")
    assert small == Generation(text="x" * 20, stopped=True)
    assert large == Failed(reason="the endpoint's answer is larger than 2,000 bytes")


def test_what_is_under_way_is_broken_off_where_nobody_listens_any_more(server: Server) -> None:
    released, waited = threading.Event(), []

    def say(body: dict[str, Any], before: int) -> Reply:
        if last(body) == "slow":
            waited.append(released.wait(5))
        return completion("fine")

    server.say = say
    told = chat_replies(Endpoint(endpoint=server.address, model="m"), [row("slow"), row("quick")], max_new_tokens=7)
    assert next(told) == (1, Generation(text="fine", stopped=True))
    told.close()
    assert waited == []
    released.set()


def test_replies_can_be_asked_for_where_an_event_loop_runs_already(server: Server) -> None:
    async def cell_of_a_notebook() -> list[Any]:
        return replies(Endpoint(endpoint=server.address, model="m"), "a")

    assert asyncio.run(cell_of_a_notebook()) == [Generation(text="fine", stopped=True)]


def test_a_row_that_is_refused_fails_alone_and_a_wrong_key_ends_it_all(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.say = lambda body, before: (400, b"too long", {}) if last(body) == "long" else completion("fine")
    long, short = replies(Endpoint(endpoint=server.address, model="m"), "long", "short")
    assert long == Failed(reason="the endpoint refused the request with status 400: too long")
    assert short == Generation(text="fine", stopped=True)
    assert len(server.requests) == 2, "a refusal is not asked again"
    monkeypatch.setenv("HFKIT_TEST_KEY", KEY)
    server.say = lambda body, before: (401, f"Bearer {KEY} is wrong".encode(), {})
    with pytest.raises(WorkError, match="refused with status 401: Bearer … is wrong") as caught:
        replies(Endpoint(endpoint=server.address, model="m", key_env="HFKIT_TEST_KEY"), "a", "b")
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "headers", "said"),
    [
        (b"no such model", {"Content-Type": "text/plain; charset=hex"}, "no such model"),
        (b"no gzip", {"Content-Encoding": "gzip"}, "without a word"),
    ],
)
def test_a_refusal_that_cannot_be_read_is_one_all_the_same(
    server: Server, content: bytes, headers: dict[str, str], said: str
) -> None:
    server.say = lambda body, before: (404, content, headers)
    with pytest.raises(WorkError, match=f"refused with status 404: {said}"):
        replies(Endpoint(endpoint=server.address, model="m"), "a")


def test_a_redirect_is_not_followed_and_says_where_the_server_is_now(server: Server) -> None:
    def refused(**headers: str) -> str:
        server.say = lambda body, before: (307, b"", headers)
        with pytest.raises(WorkError) as caught:
            replies(Endpoint(endpoint=server.address, model="m", retries=0), "a")
        return str(caught.value)

    said = refused(Location="http://127.0.0.1:9/v2/chat/completions")
    assert "redirected with status 307 to http://127.0.0.1:9/v2/chat/completions; redirects are not followed" in said
    assert said.endswith("set endpoint to http://127.0.0.1:9/v2")
    assert refused(Location="/v2/chat/completions").endswith(server.address.replace("/v1", "/v2"))
    assert refused().endswith("redirected with status 307, without an address")


def test_an_evaluation_asks_endpoints_and_a_judge_once_and_keeps_no_key(
    server: Server, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two models behind the server, judged by a third; what failed is asked again, what was answered is not."""
    from hfkit.evaluation.result import EvaluateResult
    from hfkit.pipeline import run_stages
    from hfkit.progress import Progress
    from hfkit.recipe import Recipe

    monkeypatch.setenv("HFKIT_TEST_KEY", KEY)
    failing = {"row 3"}

    def say(body: dict[str, Any], before: int) -> Reply:
        text = last(body)
        if body["model"] == "judge":
            first, _, second = text.partition("### Reply A\n")[2].partition("\n\n### Reply B\n")
            if "row 1" in text:
                return completion("I cannot say.")
            if "row 2" in text:
                return completion("The first.\nVerdict: A")
            return completion(f"Because.\nVerdict: {'A' if len(first) > len(second.splitlines()[0]) else 'B'}")
        if text in failing and body["model"] == "two":
            return 503, b"", {}
        return completion(text if body["model"] == "one" else f"{text}, and more")

    server.say = say
    Path("rows.jsonl").write_text("".join(json.dumps({"q": f"row {n}", "a": f"row {n}"}) + "\n" for n in range(6)))
    common = {"endpoint": server.address, "key_env": "HFKIT_TEST_KEY", "retries": 1}
    sections: dict[str, Any] = {
        "name": "asked",
        "evaluate": {
            "tasks": [
                {"kind": "generation", "name": "echo", "path": "rows.jsonl", "prompt": "{{ q }}", "references": "a"},
                {"kind": "text", "name": "plain", "path": "rows.jsonl", "text": "q"},
            ],
            "models": [{**common, "name": "one", "model": "one"}, {**common, "name": "two", "model": "two"}],
            "judge": {"endpoint": {**common, "model": "judge"}},
            "gates": ["one.exact_match >= 0.4", "two.echo.judge_win_rate >= one.echo.judge_win_rate - 0.5"],
        },
    }

    def evaluated() -> EvaluateResult:
        recipe = Recipe.model_validate(sections)
        outcomes = run_stages(recipe, ("evaluate",), Progress(quiet=True))
        return EvaluateResult.model_validate(outcomes["evaluate"].artifact.result)

    result = evaluated()
    echo = result.tasks["echo"]
    assert echo.scores["one"]["exact_match"].value == 1.0
    assert echo.failed == {"two": {"the endpoint gave no answer in 2 tries: status 503": 1}}
    assert result.tasks.keys() == {"echo"}, "an endpoint has no likelihoods to give"
    judged = echo.scores["two"]["judge_win_rate"]
    # Of five rows with a verdict: three longer ones won, one was chosen by place, one reply was missing.
    assert (judged.rows, judged.value) == (5, pytest.approx((3 + 0.5 + 0.0) / 5))
    assert any("1 of 5 pairs are left out" in remark for remark in echo.remarks)
    assert any("1 of 5 pairs are ties" in remark for remark in echo.remarks)
    assert result.gates[0].holds is True

    kept = [path for path in Path("runs").rglob("*") if path.is_file()]
    assert not any(KEY in path.read_text(encoding="utf-8", errors="replace") for path in kept)

    before = len(server.requests)
    failing.clear()
    sections["evaluate"]["gates"] = []
    echo = evaluated().tasks["echo"]
    asked = [(body["model"], last(body)) for body in server.requests[before:]]
    assert [text for model, text in asked if model == "two"] == ["row 3"]
    assert [text for model, text in asked if model == "one"] == []
    assert all("row 3" in text for model, text in asked if model == "judge")
    assert echo.failed == {}
