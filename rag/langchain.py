"""An index as a LangChain retriever, for those who build chains and agents with LangChain."""

from __future__ import annotations

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict

from rag.index import Index
from rag.search import SearchSettings


class IndexRetriever(BaseRetriever):
    """Gives the best chunks of an open index for a query, as LangChain documents.

    The metadata of each holds `document`, `title`, `heading_path`, `start` and `end` (characters of the document's
    text), `score` and `similarity`. Raises what `Index.search` raises.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    index: Index
    settings: SearchSettings = SearchSettings()

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        return [
            Document(
                page_content=hit.chunk.text,
                metadata={
                    "document": hit.chunk.document_id,
                    "title": hit.title,
                    "heading_path": list(hit.chunk.heading_path),
                    "start": hit.chunk.start,
                    "end": hit.chunk.end,
                    "score": hit.score,
                    "similarity": hit.similarity,
                },
            )
            for hit in self.index.search(query, self.settings)
        ]
