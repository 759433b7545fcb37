"""Engines that take time and compute nothing: a described machine's steps."""
