"""A release's items for other software: id, label, metadata and vector of each, in the files that FAISS, Vertex AI Vector
Search, Milvus or NumPy read. See docs/export.md."""
