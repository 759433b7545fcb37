"""Retrieval: the engines that search, the searches they run, and when a result is handed on."""
