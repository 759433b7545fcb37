"""Arranger: puts the documents of each request's prompts in the order that it asks for."""

from __future__ import annotations

from ragcache.cache.contract import CacheContract
from ragcache.prompt.prompt import Prompt
from ragcache.reuse.arrangement import arrange
from ragcache.reuse.popularity import Popularity
from ragcache.service.request import Request


class Arranger:
    """Knows what is cached and what is asked for often. Belongs to the event loop of its service."""

    def __init__(self, cache: CacheContract) -> None:
        self._cache = cache
        self._popularity = Popularity()

    def arranging(self, request: Request) -> Arranging:
        """What arranges the prompts of one request, over the documents that its search comes to."""
        return Arranging(self._cache, self._popularity, request)


class Arranging:
    """One request's order of documents."""

    def __init__(self, cache: CacheContract, popularity: Popularity, request: Request) -> None:
        self._cache = cache
        self._popularity = popularity
        self._namespace = request.tenant
        self._by_tree = request.order == "tree"
        self._before: Prompt | None = None

    def arranged(self, prompt: Prompt, *, final: bool) -> Prompt:
        """The prompt in the request's order. The same documents as in the prompt before keep the order they had there:
        they may be computed in it already. A `final` prompt counts towards what is asked for often."""
        if self._by_tree and len(prompt.groups) > 1:
            before = self._before
            if before is None or _set_of(before) != _set_of(prompt):
                before = self._before = self._chosen(prompt)
            prompt = before
        if final:
            keys = [segment.key for group in prompt.groups for segment in group.segments[:1]]
            self._popularity.count(self._namespace, keys)
        return prompt

    def _chosen(self, prompt: Prompt) -> Prompt:
        system, groups = prompt.system, prompt.groups

        def held(order: tuple[int, ...]) -> tuple[int, bool]:
            behind = (segment for number in order for segment in groups[number].segments)
            return self._cache.held((*system, *behind), namespace=self._namespace)

        return prompt.arranged(arrange(groups, held, lambda segment: self._popularity.of(self._namespace, segment.key)))


def _set_of(prompt: Prompt) -> tuple[tuple[bytes, ...], ...]:
    """The groups of a prompt, whatever their order."""
    return tuple(sorted(tuple(segment.key for segment in group.segments) for group in prompt.groups))
