"""Errors of retrieval: one family, worded for the person who gave the corpus, the model or the index."""


class RetrievalError(Exception):
    """Something given to retrieval cannot be used; the message says what, where, and what to do."""


class CorpusError(RetrievalError):
    """A corpus file, or documents about to be written as one, break the corpus format."""


class IndexFolderError(RetrievalError):
    """An index folder is missing, half built, damaged, or does not fit the embedder or the documents."""


class EmbedderError(RetrievalError):
    """An embedding model is not installed, cannot be loaded, or is of a kind we do not compute."""


class SearchError(RetrievalError, ValueError):
    """A search was asked for something outside its limits, such as more documents than there are."""


class SearchFailed(RetrievalError):
    """A search that was asked for rightly did not work: memory, disk, index or embedder failed it. Another may work."""


class RetrievalWarning(UserWarning):
    """Retrieval works, but probably not as its user meant."""
