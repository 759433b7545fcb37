"""Which documents answer a question: corpus, document store, embedder, FAISS index, retriever."""
