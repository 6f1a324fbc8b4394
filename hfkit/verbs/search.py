"""`hfkit search`: ranked passages that one can read."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import textwrap
from collections.abc import Set
from dataclasses import replace

import yaml

from hfkit.errors import RequestError
from hfkit.output import emit, harmless, one_line
from hfkit.quiet import quiet_libraries
from rag.analysis import folded, terms, terms_of_word, word_spans
from rag.filters import Filter, check_filter
from rag.search import Hit, SearchSettings

_MOST = 1000
_MOST_NEIGHBOURS = 10
_MOST_WIDE = 100
_BOLD, _PLAIN = "\x1b[1m", "\x1b[0m"


def run(arguments: argparse.Namespace) -> int:
    from hfkit.indexing import open_any_index

    if not 0 <= arguments.neighbours <= _MOST_NEIGHBOURS:
        raise RequestError(f"--neighbours: expected a number from 0 to {_MOST_NEIGHBOURS}, got {arguments.neighbours}")
    if not 1 <= arguments.k <= _MOST:
        raise RequestError(f"-k: expected a number from 1 to {_MOST}, got {arguments.k}")
    settings = SearchSettings(
        mode=arguments.mode,
        top_k=arguments.k,
        filter=_filter(arguments.filter),
        per_document=arguments.per_document,
        neighbours=arguments.neighbours,
    )
    if arguments.rerank is not None:
        from hfkit.searching import load_reranker

        # What it never reads it cannot rank: as many as are asked for, then.
        read = max(settings.rerank_candidates, settings.top_k)
        settings = replace(settings, reranker=load_reranker(arguments.rerank), rerank_candidates=read)
    with quiet_libraries(), open_any_index(arguments.index) as index:
        hits = index.search(arguments.query, settings)
    if arguments.json:
        emit(json.dumps({"query": arguments.query, "hits": [hit_document(hit) for hit in hits]}, indent=2))
    elif not hits:
        emit("nothing found")
    else:
        wanted = set(terms(arguments.query)) if sys.stdout.isatty() else set()
        width = min(_MOST_WIDE, shutil.get_terminal_size().columns)
        emit("\n\n".join(_readable(hit, wanted, width) for hit in hits), styled=True)
    return 0


def hit_document(hit: Hit) -> dict[str, object]:
    """A hit as the JSON documents of `search` and `ask` hold it. `span` counts characters of the document's text, and
    is that of `text`; `chunk` is what was found, which `text` shows together with its neighbours, if those are shown.
    """
    return {
        "rank": hit.rank,
        "score": hit.score,
        "similarity": hit.similarity,
        "document": hit.chunk.document_id,
        "source": hit.source,
        "title": hit.title,
        "heading_path": list(hit.chunk.heading_path),
        "page": hit.chunk.page,
        "metadata": dict(hit.metadata),
        "span": [hit.start, hit.end],
        "text": hit.text,
        "chunk": {"position": hit.chunk.position, "span": [hit.chunk.start, hit.chunk.end]},
    }


def marked(text: str, wanted: Set[str]) -> str:
    """`text` with the words that have one of these terms in bold."""
    pieces, done = [], 0
    for start, end in word_spans(text):
        if any(term in wanted for term in terms_of_word(folded(text[start:end]))):
            pieces += [text[done:start], _BOLD, text[start:end], _PLAIN]
            done = end
    return "".join([*pieces, text[done:]])


def _readable(hit: Hit, wanted: Set[str], width: int) -> str:
    """Where it stands, how it scored, and what it says, wrapped; lines of code and lists stay lines."""
    place = hit.source if hit.chunk.page is None else f"{hit.source}, page {hit.chunk.page}"
    heading = " > ".join(hit.chunk.heading_path)
    head = f"{hit.rank}. {one_line(place)}{f' — {one_line(heading)}' if heading else ''}"
    figures = f"   score {hit.score:.3f}, cosine {hit.similarity:.3f}, characters {hit.start}-{hit.end}"
    lines: list[str] = []
    for line in harmless(hit.text).strip().splitlines():
        indent = "   " + line[: len(line) - len(line.lstrip())]
        lines += textwrap.wrap(line, width, initial_indent="   ", subsequent_indent=indent) or [""]
    return "\n".join((head, figures, marked("\n".join(lines), wanted)))


def _filter(text: str | None) -> Filter | None:
    """The filter as it was typed: YAML, so JSON too."""
    if text is None:
        return None
    try:
        read = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RequestError(f"--filter: {text!r} is no YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(read, dict):
        raise RequestError(f"--filter: expected names with conditions, such as 'author: Ada', got {text!r}")
    return check_filter(read)
