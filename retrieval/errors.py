"""Errors of retrieval: one family, worded for the user who gave the corpus, the model or the index."""


class RetrievalError(Exception):
    """Something given to retrieval cannot be used; the message says what, where, and what to do."""


class CorpusError(RetrievalError):
    """A corpus file, or documents to be written as one, break the corpus format."""


class IndexFolderError(RetrievalError):
    """An index folder is missing, half built, damaged, or does not fit the embedder or the documents."""


class IndexDamaged(IndexFolderError):
    """A file of an index is not what was written when it was built."""


class EmbedderError(RetrievalError):
    """An embedding model is not installed, cannot be loaded, or is of a kind that is not supported."""


class SearchError(RetrievalError, ValueError):
    """The arguments of a search are wrong, such as more documents than the index has."""


class SearchFailed(RetrievalError):
    """A search with right arguments failed, through memory, disk, index or embedder. The next one may work."""


class RetrievalWarning(UserWarning):
    """Retrieval works, but probably not as the user intended."""
