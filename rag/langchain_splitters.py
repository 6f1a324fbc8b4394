"""LangChain's text splitters by name, made to give exact spans of the text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from rag.packing import Sizes, fitting_spans, repeated_start, sentence_sizes
from rag.segments import Span, trimmed

if TYPE_CHECKING:
    from langchain_text_splitters import TextSplitter

# `recursive` is the short name of RecursiveCharacterTextSplitter. LangChain's other splitters write the text anew
# (they drop headings, or decode tokens), so that no span of the document could be told.
LangChainSplitter = Literal[
    "recursive",
    "RecursiveCharacterTextSplitter",
    "CharacterTextSplitter",
    "MarkdownTextSplitter",
    "PythonCodeTextSplitter",
    "LatexTextSplitter",
]
LANGCHAIN_SPLITTERS: tuple[str, ...] = get_args(LangChainSplitter)


def langchain_spans(name: str, text: str, span: Span, room: int, overlap: int, sizes: Sizes) -> list[Span]:
    """The spans that the splitter of this name gives, sized in tokens, each with up to `overlap` tokens of whole
    sentences from the one before. A piece that the splitter leaves over `room` is cut into sentences and words.

    LangChain is asked for no overlap: its own start index takes the overlap for characters, and is wrong where it is
    counted in tokens; without overlap each piece starts where the one before ended but for space.
    """
    repeated = min(overlap, room // 2)
    found: list[Span] = []
    end = span[0]
    for piece in _splitter(name, room - repeated, sizes).split_text(text[span[0] : span[1]]):
        start = text.index(piece, end, span[1])
        end = start + len(piece)
        inner = trimmed(text, (start, end))
        if inner is not None:
            found.append(inner)
    sentences = sentence_sizes(text, span, sizes) if repeated else []
    spans: list[Span] = []
    before: Span | None = None
    for start, end in fitting_spans(text, found, room - repeated, sizes):
        begin = None if before is None else repeated_start(sentences, before, repeated)
        before = (start, end)
        spans.append((start if begin is None else begin[0], end))
    return spans


def _splitter(name: str, size: int, sizes: Sizes) -> TextSplitter:
    import langchain_text_splitters as langchain

    match name:
        case "CharacterTextSplitter":
            # Kept separators are what makes its pieces parts of the text: it joins them anew otherwise.
            return langchain.CharacterTextSplitter(
                chunk_size=size, chunk_overlap=0, length_function=sizes.of, keep_separator=True
            )
        case "MarkdownTextSplitter":
            # Its separators are regular expressions, which it takes for plain text where nobody says so.
            return langchain.MarkdownTextSplitter(
                chunk_size=size, chunk_overlap=0, length_function=sizes.of, is_separator_regex=True
            )
        case "PythonCodeTextSplitter":
            return langchain.PythonCodeTextSplitter(chunk_size=size, chunk_overlap=0, length_function=sizes.of)
        case "LatexTextSplitter":
            return langchain.LatexTextSplitter(
                chunk_size=size, chunk_overlap=0, length_function=sizes.of, is_separator_regex=True
            )
        case _:
            return langchain.RecursiveCharacterTextSplitter(chunk_size=size, chunk_overlap=0, length_function=sizes.of)
