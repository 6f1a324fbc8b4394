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
        Document(name, name, text, (Section(("Top",), 0, len(text), 3),), f"shelf/{name}", {"author": "Ada"})
        for name, text in texts.items()
    )
    with Index.create_or_open(tmp_path / "index", HashEmbedder()) as index:
        index.sync(Corpus(documents, ()))
        retriever = IndexRetriever(index=index, settings=SearchSettings(mode="lexical", top_k=1))
        (found,) = retriever.invoke("molten sand")
        assert found.page_content == texts["glass.md"]
        assert found.metadata["document"] == "glass.md" and found.metadata["heading_path"] == ["Top"]
        assert texts["glass.md"][found.metadata["start"] : found.metadata["end"]] == found.page_content
        assert found.metadata["source"] == "shelf/glass.md" and found.metadata["page"] == 3
        assert found.metadata["author"] == "Ada"
        tool = create_retriever_tool(retriever, "glass", "about glass")
        assert texts["glass.md"] in tool.invoke({"query": "molten sand"})


def test_the_settings_hold_in_a_chain_too(tmp_path: Path) -> None:
    text = "\n\n".join(f"Bee number {number} dances." for number in range(9))
    sections = tuple(Section((), at, at + 20) for at in range(0, len(text) - 20, 22))
    documents = tuple(Document(f"{name}.md", name, text, sections, "", {"shelf": name}) for name in "ab")
    with Index.create_or_open(tmp_path / "index", HashEmbedder()) as index:
        index.sync(Corpus(documents, ()))
        settings = SearchSettings(top_k=4, filter={"shelf": "b"}, neighbours=1, per_document=2)
        found = IndexRetriever(index=index, settings=settings).invoke("bee number 4 dances")
        hits = index.search("bee number 4 dances", settings)
        assert [one.page_content for one in found] == [hit.text for hit in hits]
        assert len(found) == 2 and {one.metadata["document"] for one in found} == {"b.md"}
        assert all(text[one.metadata["start"] : one.metadata["end"]] == one.page_content for one in found)
