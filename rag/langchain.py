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

    The text of each is the hit's, with its neighbours where `settings` ask for them. Its metadata holds the document's
    own, and over it `document`, `source`, `title`, `heading_path`, `page`, `start` and `end` (the text's characters in
    the document's), `score` and `similarity`. Raises what `Index.search` raises.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    index: Index
    settings: SearchSettings = SearchSettings()

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        return [
            Document(
                page_content=hit.text,
                metadata={
                    **hit.metadata,
                    "document": hit.chunk.document_id,
                    "source": hit.source,
                    "title": hit.title,
                    "heading_path": list(hit.chunk.heading_path),
                    "page": hit.chunk.page,
                    "start": hit.start,
                    "end": hit.end,
                    "score": hit.score,
                    "similarity": hit.similarity,
                },
            )
            for hit in self.index.search(query, self.settings)
        ]
