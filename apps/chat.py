"""The chat app: answers from the index of a run, streamed, with the passages they come from."""

from __future__ import annotations

import html
import sys
import threading
from collections.abc import Iterator, Sequence

import gradio as gr

from hfkit.assistant import Assistant, load_assistant
from hfkit.errors import RequestError
from hfkit.quiet import quiet_libraries
from hfkit.recipe import AppSection, Recipe
from rag.answer import ABSTENTION, finish_answer, grounded_messages, passage_of
from rag.search import Hit

_LONGEST_QUESTION = 2000

STYLE = """
.passage { border-left: 3px solid var(--border-color-primary); padding: 0.25rem 0.75rem; margin: 0.5rem 0; }
.passage.cited { border-left-color: var(--color-accent); background: var(--background-fill-secondary); }
.passage .where { font-weight: 600; font-size: 0.9rem; }
.passage .figures { color: var(--body-text-color-subdued); font-size: 0.8rem; }
.passage pre { white-space: pre-wrap; font-family: inherit; font-size: 0.9rem; margin: 0.25rem 0 0 0;
               background: none; border: none; padding: 0; max-height: 14rem; overflow-y: auto; }
"""

Turn = dict[str, str]


def serve(recipe: Recipe) -> None:
    """Load what the recipe's run made, serve the page, and block until interrupted.

    Raises:
        RequestError: the recipe's port is taken.
        WorkError: the run has not finished.
    """
    settings = recipe.app or AppSection()
    print("loading the index and the reader", file=sys.stderr, flush=True)
    with quiet_libraries(), load_assistant(recipe) as assistant:
        page = build(assistant, settings)
        page.queue(max_size=32)
        try:
            _launch(page, settings)
            threading.Event().wait()
        except KeyboardInterrupt:
            # The way to end it, hence no failure.
            print("closing", file=sys.stderr)
        finally:
            page.close(verbose=False)


def _launch(page: gr.Blocks, settings: AppSection) -> None:
    try:
        _, url, _ = page.launch(
            server_name=settings.host,
            server_port=settings.port,
            css=STYLE,
            prevent_thread_lock=True,
            quiet=True,
            show_error=False,
            footer_links=[],
        )
    except OSError as error:
        wanted = "from 7860 on" if settings.port is None else str(settings.port)
        raise RequestError(f"app.port: no free port {wanted} on {settings.host}; set app.port to another") from error
    print(f"{settings.title}: {url} (Ctrl-C ends it)", file=sys.stderr, flush=True)


def build(assistant: Assistant, settings: AppSection) -> gr.Blocks:
    """The page: a conversation on the left, on the right the passages behind its newest answer."""
    page: gr.Blocks = gr.Blocks(title=settings.title, analytics_enabled=False, fill_height=True)
    with page:
        gr.Markdown(
            f"# {settings.title}\nAnswers quote the indexed documents and cite them. Reader: {assistant.reader_name}."
        )
        with gr.Row(equal_height=False):
            with gr.Column(scale=3):
                chat = gr.Chatbot(label="Conversation", height=480, buttons=["copy"], render_markdown=False)
                question = gr.Textbox(
                    placeholder="Ask the documents", show_label=False, max_length=_LONGEST_QUESTION, autofocus=True
                )
                with gr.Row():
                    send = gr.Button("Ask", variant="primary")
                    stop = gr.Button("Stop")
                if settings.examples:
                    gr.Examples([[example] for example in settings.examples], inputs=[question], label="Try")
            with gr.Column(scale=2):
                sources = gr.HTML(_no_sources(), label="Sources", elem_id="sources")

        def respond(asked: str | None, turns: list[Turn]) -> Iterator[tuple[str, list[Turn], str]]:
            yield from answer_in_steps(assistant, asked, turns)

        asking = gr.on(
            [question.submit, send.click], respond, [question, chat], [question, chat, sources], concurrency_limit=1
        )
        stop.click(None, cancels=[asking])
        chat.clear(_no_sources, None, sources, cancels=[asking])
    return page


def answer_in_steps(
    assistant: Assistant, asked: str | None, turns: list[Turn]
) -> Iterator[tuple[str, list[Turn], str]]:
    """What the page shows while `asked` is answered: the emptied box, the conversation, the sources as HTML."""
    question = (asked or "").strip()[:_LONGEST_QUESTION]
    if not question:
        yield "", turns, _no_sources()
        return
    turns = [*turns, {"role": "user", "content": question}]
    hits = assistant.retrieve(question)
    if not hits:
        yield "", [*turns, {"role": "assistant", "content": ABSTENTION}], _no_sources()
        return
    yield "", [*turns, {"role": "assistant", "content": "…"}], sources_html(hits, ())
    said = ""
    try:
        for piece in assistant.reader.stream(grounded_messages(question, [passage_of(hit) for hit in hits])):
            said += piece
            if said.strip():
                yield "", [*turns, {"role": "assistant", "content": said}], sources_html(hits, ())
    except RequestError as error:
        yield "", [*turns, {"role": "assistant", "content": f"({error})"}], sources_html(hits, ())
        return
    answered = finish_answer(said, hits)
    text = answered.text or "(the reader gave an empty answer)"
    if answered.unknown_citations:
        missing = ", ".join(f"[{number}]" for number in answered.unknown_citations)
        text += f"\n\n(The answer cites {missing}, which is none of the passages.)"
    yield "", [*turns, {"role": "assistant", "content": text}], sources_html(hits, answered.citations)


def sources_html(hits: Sequence[Hit], cited: Sequence[int]) -> str:
    """The passages, numbered as the answer cites them; those in `cited` stand out. All text is escaped."""
    passages = []
    for number, hit in enumerate(hits, start=1):
        mark = " cited" if number in cited else ""
        where = html.escape(f"[{number}] {hit.chunk.document_id} — {' › '.join(hit.chunk.heading_path)}")
        figures = f"cosine {hit.similarity:.2f}, characters {hit.start}–{hit.end}"
        passages.append(
            f'<div class="passage{mark}"><div class="where">{where}</div>'
            f'<div class="figures">{figures}{", cited" if mark else ""}</div>'
            f"<pre>{html.escape(hit.text.strip())}</pre></div>"
        )
    return f"<h3>Sources</h3>{''.join(passages)}"


def _no_sources() -> str:
    return "<h3>Sources</h3><p>The passages behind an answer are shown here.</p>"
