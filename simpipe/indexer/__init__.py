"""The index API on embeddings, shared by models and callbacks."""

from simpipe.indexer.indexer import Indexer

__all__ = ["Indexer"]
