"""Documents into an index, questions into ranked passages, passages into grounded answers.

Importing this package loads no model library and no FAISS: what needs them imports them when it runs.
"""

from rag.chunking import Chunk, ChunkSettings, chunk_document, chunk_documents
from rag.documents import Corpus, Document, Limits, Section, Skipped, fingerprint_sources, load_corpus
from rag.embedder import Embedder, SentenceTransformerEmbedder
from rag.errors import RagError, RagRequestError
from rag.index import Index
from rag.manifest import Manifest
from rag.search import Hit, SearchSettings
from rag.sync import SyncReport

__all__ = [
    "Chunk",
    "ChunkSettings",
    "Corpus",
    "Document",
    "Embedder",
    "Hit",
    "Index",
    "Limits",
    "Manifest",
    "RagError",
    "RagRequestError",
    "SearchSettings",
    "Section",
    "SentenceTransformerEmbedder",
    "Skipped",
    "SyncReport",
    "chunk_document",
    "chunk_documents",
    "fingerprint_sources",
    "load_corpus",
]
