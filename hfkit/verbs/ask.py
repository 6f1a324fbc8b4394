"""`hfkit ask`: one grounded answer with its citations."""

from __future__ import annotations

import argparse
import json

from hfkit.assistant import load_assistant
from hfkit.output import emit
from hfkit.quiet import quiet_libraries
from hfkit.recipe import load_recipe
from hfkit.verbs.search import hit_document
from rag.answer import answer


def run(arguments: argparse.Namespace) -> int:
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    with quiet_libraries(), load_assistant(recipe) as assistant:
        # Bytes that the terminal could not decode arrive as lone surrogates, which no tokenizer takes.
        question = arguments.question.encode("utf-8", "replace").decode("utf-8")
        answered = answer(question, assistant.retrieve(question), assistant.reader)
    if arguments.json:
        document = {
            "question": arguments.question,
            "answer": answered.text,
            "abstained": answered.abstained,
            "citations": list(answered.citations),
            "unknown_citations": list(answered.unknown_citations),
            "reader": assistant.reader_name,
            "hits": [hit_document(hit) for hit in answered.hits],
        }
        emit(json.dumps(document, indent=2))
        return 0
    emit(answered.text)
    for number in answered.citations:
        hit = answered.hits[number - 1]
        emit(f"\n[{number}] {hit.chunk.document_id} — {' > '.join(hit.chunk.heading_path)}")
    for number in answered.unknown_citations:
        emit(f"\n[{number}] (the answer cites a passage that there is not)")
    return 0
