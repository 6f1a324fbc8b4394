"""`hfkit search`: ranked passages that one can read."""

from __future__ import annotations

import argparse
import json
import textwrap

from hfkit.errors import RequestError
from hfkit.output import emit
from hfkit.quiet import quiet_libraries
from rag.search import Hit, SearchSettings

_MOST = 1000


def run(arguments: argparse.Namespace) -> int:
    from hfkit.indexing import open_any_index

    if not 1 <= arguments.k <= _MOST:
        raise RequestError(f"-k: expected a number from 1 to {_MOST}, got {arguments.k}")
    settings = SearchSettings(mode=arguments.mode, top_k=arguments.k)
    with quiet_libraries(), open_any_index(arguments.index) as index:
        hits = index.search(arguments.query, settings)
    if arguments.json:
        emit(json.dumps({"query": arguments.query, "hits": [hit_document(hit) for hit in hits]}, indent=2))
    elif not hits:
        emit("nothing found")
    else:
        emit("\n\n".join(_readable(hit) for hit in hits))
    return 0


def hit_document(hit: Hit) -> dict[str, object]:
    """A hit as the JSON documents of `search` and `ask` hold it. `span` counts characters of the document's text."""
    return {
        "rank": hit.rank,
        "score": hit.score,
        "similarity": hit.similarity,
        "document": hit.chunk.document_id,
        "title": hit.title,
        "heading_path": list(hit.chunk.heading_path),
        "span": [hit.chunk.start, hit.chunk.end],
        "text": hit.chunk.text,
    }


def _readable(hit: Hit) -> str:
    head = f"{hit.rank}. {hit.chunk.document_id} — {' > '.join(hit.chunk.heading_path)}"
    figures = f"   score {hit.score:.3f}, cosine {hit.similarity:.3f}"
    return "\n".join((head, figures, textwrap.indent(hit.chunk.text.strip(), "   ")))
