"""Metrics: the service's counters and latencies in Prometheus' words."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ragcache.service import Answer, RagService

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0)


class Metrics:
    """A registry of its own a server: counters read from the service at each scrape, histograms fed by answers."""

    def __init__(self, service: RagService) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_ServiceCollector(service))
        self._phases = {
            name: Histogram(f"ragcache_{name}_seconds", text, buckets=_SECONDS, registry=self._registry)
            for name, text in {
                "ttft": "From arrival to the first token",
                "total": "From arrival to the last token",
                "retrieval": "Embedding, search and building the prompt",
                "queue": "From the documents to the engine's first step",
                "prefill": "Computing what was not cached of the prompt",
            }.items()
        }

    def observe(self, answer: Answer) -> None:
        for name, histogram in self._phases.items():
            histogram.observe(getattr(answer.timing, f"{name}_ms") / 1000)

    def text(self) -> bytes:
        """The exposition format of Prometheus."""
        return generate_latest(self._registry)


class _ServiceCollector(Collector):
    def __init__(self, service: RagService) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        service, stats = self._service, self._service.stats
        requests = CounterMetricFamily("ragcache_requests", "Requests by how they ended", labels=["outcome"])
        for outcome in ("answered", "rejected", "overloaded", "cancelled", "failed"):
            requests.add_metric([outcome], stats.outcomes[outcome])
        yield requests
        tokens = CounterMetricFamily("ragcache_prompt_tokens", "Prompt tokens by source", labels=["source"])
        tokens.add_metric(["computed"], stats.computed_tokens)
        tokens.add_metric(["device"], stats.cached_tokens)
        yield tokens
        yield CounterMetricFamily(
            "ragcache_completion_tokens", "Tokens generated for answers", value=stats.completion_tokens
        )
        yield GaugeMetricFamily("ragcache_requests_running", "Requests in the engine", value=service.running)
        yield GaugeMetricFamily("ragcache_requests_waiting", "Requests before the engine", value=service.waiting)
        yield from self._cache()
        yield from self._engine()

    def _cache(self) -> Iterator[Metric]:
        cache = self._service.cache
        balance, counts = cache.balance(), cache.counts
        held = GaugeMetricFamily("ragcache_cache_bytes", "Memory of a tier by state", labels=["tier", "state"])
        for state in ("total", "free", "cached", "held"):
            held.add_metric(["device", state], getattr(balance, state))
        yield held
        nodes = GaugeMetricFamily("ragcache_cache_nodes", "Nodes of the knowledge tree", labels=["tier"])
        nodes.add_metric(["device"], len(cache.tree))
        yield nodes
        for name in ("hits", "misses", "insertions", "evictions", "rejections", "refusals"):
            counter = CounterMetricFamily(f"ragcache_cache_{name}", f"Cache {name} of segments", labels=["tier"])
            counter.add_metric(["device"], getattr(counts, name))
            yield counter

    def _engine(self) -> Iterator[Metric]:
        stats = self._service.engine.stats()
        yield CounterMetricFamily("ragcache_engine_steps", "Forward passes", value=stats.steps)
        yield CounterMetricFamily("ragcache_engine_step_seconds", "Time in forward passes", value=stats.step_seconds)
        tokens = CounterMetricFamily("ragcache_engine_tokens", "Tokens computed by phase", labels=["phase"])
        tokens.add_metric(["prefill"], stats.prefill_tokens)
        tokens.add_metric(["decode"], stats.decode_tokens)
        yield tokens
