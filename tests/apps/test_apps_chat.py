"""The chat app: what it shows step by step, and the page itself in a real browser."""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.chat import answer_in_steps, build, sources_html
from hfkit.recipe import AppSection
from rag.answer import ABSTENTION, Message
from rag.chunking import Chunk
from rag.search import Hit

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.conftest import Cli, RecipeWriter

CHROMIUM = Path("/usr/bin/chromium")


def hit(number: int, text: str, heading: str = "Anchors") -> Hit:
    chunk = Chunk(
        document_id=f"docs/{number}.md",
        position=0,
        heading_path=("Ships", heading),
        start=10,
        end=10 + len(text),
        text=text,
        tokens=len(text.split()),
    )
    return Hit(chunk, "Ships", 0.9, 0.8, number, chunk.document_id, {}, chunk.start, chunk.end, chunk.text)


@dataclass
class ScriptedReader:
    """Says the same to every question, a word at a time."""

    says: str
    pause: float = 0.0
    asked: tuple[Message, ...] = ()
    closed: bool = False

    def stream(self, messages: Sequence[Message]) -> Iterator[str]:
        self.asked = tuple(messages)
        try:
            for word in re.findall(r"\S+\s*", self.says):
                time.sleep(self.pause)
                yield word
        finally:
            self.closed = True


@dataclass
class ScriptedAssistant:
    """What the app needs of an assistant, without an index."""

    reader: ScriptedReader
    hits: tuple[Hit, ...]
    reader_name: str = "scripted"

    def retrieve(self, question: str) -> list[Hit]:
        return list(self.hits)


def scripted(says: str, *hits: Hit, pause: float = 0.0) -> Any:
    return ScriptedAssistant(ScriptedReader(says, pause), hits)


def test_an_answer_grows_step_by_step_and_its_citation_is_marked_at_the_end() -> None:
    assistant = scripted("An anchor holds. [2]", hit(1, "Chains rust."), hit(2, "An anchor holds."))
    steps = list(answer_in_steps(assistant, " What holds? ", []))
    said = [turns[-1]["content"] for _, turns, _ in steps]
    assert said == ["…", "An ", "An anchor ", "An anchor holds. ", "An anchor holds. [2]", "An anchor holds. [2]"]
    assert all(box == "" for box, _, _ in steps)
    assert steps[0][1][0] == {"role": "user", "content": "What holds?"}
    assert "cited" not in steps[0][2]
    final = steps[-1][2]
    assert final.count('class="passage cited"') == 1
    assert final.index("[1] docs/1.md") < final.index('class="passage cited"') < final.index("[2] docs/2.md")
    assert assistant.reader.asked[-1]["content"].endswith("Question: What holds?")


def test_a_citation_of_no_passage_is_said() -> None:
    *_, (_, turns, sources) = answer_in_steps(scripted("It holds. [7]", hit(1, "A.")), "q", [])
    assert "[7]" in turns[-1]["content"] and "none of the passages" in turns[-1]["content"]
    assert "cited" not in sources


def test_nothing_retrieved_is_an_abstention_without_asking_the_reader() -> None:
    assistant = scripted("never said")
    ((_, turns, _),) = answer_in_steps(assistant, "q", [])
    assert turns[-1]["content"] == ABSTENTION
    assert assistant.reader.asked == ()


def test_an_empty_question_changes_nothing() -> None:
    before = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    ((box, turns, _),) = answer_in_steps(scripted("x", hit(1, "A.")), "  \n ", before)
    assert (box, turns) == ("", before)


def test_leaving_the_page_closes_the_reader() -> None:
    assistant = scripted("one two three four", hit(1, "A."))
    steps = answer_in_steps(assistant, "q", [])
    next(steps), next(steps)
    steps.close()
    assert assistant.reader.closed


@given(st.text(), st.text(min_size=1))
def test_text_of_documents_never_becomes_markup(text: str, heading: str) -> None:
    page = sources_html([hit(1, f"<script>{text}</script>", f"<b>{heading}")], (1,))
    assert "<script" not in page and "<b>" not in page
    assert len(re.findall(r"<(?!/?(?:div|h3|pre)\b)", page)) == 0


@pytest.fixture
def browse() -> Iterator[Callable[[str], tuple[Page, list[str]]]]:
    """`page, requests = browse(url)`: Chromium on the page, and every address that it asked for."""
    if not CHROMIUM.exists():
        pytest.skip(f"no browser at {CHROMIUM}")
    from playwright.sync_api import sync_playwright

    switches = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=switches)

        def open_page(url: str) -> tuple[Page, list[str]]:
            page = browser.new_page(viewport={"width": 1280, "height": 860})
            requests: list[str] = []
            page.on("request", lambda request: requests.append(request.url))
            page.goto(url)
            return page, requests

        yield open_page
        browser.close()


@pytest.fixture
def served() -> Iterator[Callable[..., str]]:
    """`url = served(assistant, settings)`: the page on a free port of this machine."""
    from apps.chat import STYLE

    pages = []

    def serve(assistant: Any, settings: AppSection) -> str:
        page = build(assistant, settings)
        _, url, _ = page.queue().launch(server_name="127.0.0.1", css=STYLE, prevent_thread_lock=True, quiet=True)
        pages.append(page)
        return str(url)

    yield serve
    for page in pages:
        page.close(verbose=False)


@pytest.mark.browser
def test_a_person_asks_reads_the_answer_and_sees_where_it_stands(
    served: Callable[..., str], browse: Callable[[str], tuple[Page, list[str]]], tmp_path: Path
) -> None:
    assistant = scripted(
        "An anchor holds a ship. [2]", hit(1, "Chains rust."), hit(2, "An anchor holds a <em>ship</em>."), pause=0.05
    )
    from playwright.sync_api import expect

    url = served(assistant, AppSection(title="Harbour desk", examples=("What holds a ship?",)))
    page, requests = browse(url)
    page.get_by_role("heading", name="Harbour desk").wait_for()
    page.get_by_text("What holds a ship?").first.click()
    expect(page.get_by_placeholder("Ask the documents")).to_have_value("What holds a ship?")
    page.get_by_role("button", name="Ask").click()
    page.locator("#sources .passage.cited").wait_for()
    assert "[2] docs/2.md" in page.locator("#sources .passage.cited").inner_text()
    assert "An anchor holds a <em>ship</em>." in page.locator("#sources .passage.cited").inner_text()
    assert page.get_by_text("An anchor holds a ship. [2]").first.is_visible()
    page.screenshot(path=tmp_path / "answered.png")
    page.get_by_role("button", name="Clear").click()
    page.get_by_text("An anchor holds a ship. [2]").first.wait_for(state="detached")
    expect(page.locator("#sources .passage")).to_have_count(0)
    foreign = [address for address in requests if not address.startswith((url, "data:", "blob:"))]
    assert foreign == []


@pytest.mark.browser
def test_stop_ends_a_long_answer(served: Callable[..., str], browse: Callable[[str], tuple[Page, list[str]]]) -> None:
    assistant = scripted("word " * 2000, hit(1, "A."), pause=0.02)
    page, _ = browse(served(assistant, AppSection()))
    page.get_by_placeholder("Ask the documents").fill("go on for ever")
    page.keyboard.press("Enter")
    page.get_by_text("word word word").first.wait_for()
    page.get_by_role("button", name="Stop").click()
    deadline = time.monotonic() + 60
    while not assistant.reader.closed and time.monotonic() < deadline:
        page.wait_for_timeout(50)
    assert assistant.reader.closed


def test_the_verb_serves_what_a_run_made_and_ends_cleanly(cli: Cli, tiny_recipe: RecipeWriter) -> None:
    recipe = tiny_recipe(app={"title": "Small talk"})
    early = cli("app", recipe)
    assert early.code == 1 and "has not finished" in early.err and "Traceback" not in early.err
    assert cli("train", recipe).code == 0
    assert cli("index", recipe).code == 0
    import signal
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = cli("app", recipe, f"app.port={port}")
        assert refused.code == 2 and str(port) in refused.err and "Traceback" not in refused.err
    app = cli.start("app", recipe, f"app.port={port}")
    body = ""
    for _ in range(1200):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
                body = answer.read().decode()
            break
        except OSError:
            assert app.running()
            time.sleep(0.1)
    assert "Small talk" in body
    app.kill(signal.SIGINT)
    done = app.wait()
    assert done.code == 0 and done.out == "" and "Traceback" not in done.err
