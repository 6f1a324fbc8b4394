"""The index as a LangChain retriever."""

from __future__ import annotations

from pathlib import Path

from langchain_core.tools import create_retriever_tool

from rag import Corpus, Document, Index, SearchSettings, Section
from rag.langchain import IndexRetriever
from tests.rag.hash_embedder import HashEmbedder


def test_a_chain_gets_the_chunks_that_a_search_gives(tmp_path: Path) -> None:
    texts = {"bees.md": "Bees dance to tell where flowers stand.", "glass.md": "Glass is molten sand and soda."}
    documents = tuple(
        Document(id=name, title=name, text=text, sections=(Section(("Top",), 0, len(text)),))
        for name, text in texts.items()
    )
    with Index.create_or_open(tmp_path / "index", HashEmbedder()) as index:
        index.sync(Corpus(documents, ()))
        retriever = IndexRetriever(index=index, settings=SearchSettings(mode="lexical", top_k=1))
        (found,) = retriever.invoke("molten sand")
        assert found.page_content == texts["glass.md"]
        assert found.metadata["document"] == "glass.md" and found.metadata["heading_path"] == ["Top"]
        assert texts["glass.md"][found.metadata["start"] : found.metadata["end"]] == found.page_content
        tool = create_retriever_tool(retriever, "glass", "about glass")
        assert texts["glass.md"] in tool.invoke({"query": "molten sand"})
