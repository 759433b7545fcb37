"""Metrics: the service's counters and latencies in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ragcache.service.answer import Answer
from ragcache.service.service import RagService

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0)


class Metrics:
    """The metrics of one service: counters are read from it at each scrape, histograms are fed by its answers."""

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
        """Adds the times of an answer to the histograms."""
        for name, histogram in self._phases.items():
            histogram.observe(getattr(answer.timing, f"{name}_ms") / 1000)

    def text(self) -> bytes:
        """All metrics in the exposition format of Prometheus."""
        return generate_latest(self._registry)


class _ServiceCollector(Collector):
    def __init__(self, service: RagService) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        service, stats = self._service, self._service.stats
        requests = CounterMetricFamily("ragcache_requests", "Requests by how they ended", labels=["outcome"])
        for outcome in ("answered", "rejected", "overloaded", "expired", "cancelled", "failed"):
            requests.add_metric([outcome], stats.outcomes[outcome])
        yield requests
        tokens = CounterMetricFamily("ragcache_prompt_tokens", "Prompt tokens by source", labels=["source"])
        tokens.add_metric(["computed"], stats.computed_tokens)
        for tier in ("device", "host", "disk"):
            tokens.add_metric([tier], stats.cached_tokens[tier])
        yield tokens
        yield CounterMetricFamily(
            "ragcache_shared_in_flight_tokens",
            "Cached prompt tokens that another request was computing at the request's turn",
            value=stats.shared_tokens,
        )
        yield CounterMetricFamily(
            "ragcache_completion_tokens", "Tokens generated for answers", value=stats.completion_tokens
        )
        yield CounterMetricFamily(
            "ragcache_retries", "Requests started again after a failure before their first token", value=stats.retries
        )
        yield CounterMetricFamily(
            "ragcache_preemptions", "Requests that gave way when device memory was exhausted", value=stats.preemptions
        )
        yield CounterMetricFamily(
            "ragcache_speculations", "Prefills begun before the search was over", value=stats.speculations
        )
        yield CounterMetricFamily(
            "ragcache_speculations_used", "Speculations that became the answer", value=stats.used_speculations
        )
        yield CounterMetricFamily(
            "ragcache_speculation_wasted_tokens",
            "Tokens computed for speculations that were cancelled, and not kept",
            value=stats.wasted_tokens,
        )
        reloads = CounterMetricFamily("ragcache_index_reloads", "Indexes opened anew on SIGHUP", labels=["result"])
        reloads.add_metric(["done"], stats.reloads)
        reloads.add_metric(["failed"], stats.failed_reloads)
        yield reloads
        yield GaugeMetricFamily(
            "ragcache_index_documents", "Documents that answers are drawn from", value=service.corpus_size
        )
        yield GaugeMetricFamily("ragcache_requests_running", "Requests in the engine", value=service.running)
        yield GaugeMetricFamily("ragcache_requests_waiting", "Requests before the engine", value=service.waiting)
        yield from self._cache()
        yield from self._engine()
        yield from self._components()

    def _cache(self) -> Iterator[Metric]:
        report, stats = self._service.cache.report(), self._service.stats
        tiers = report.tiers
        held = GaugeMetricFamily("ragcache_cache_bytes", "Memory of a tier by state", labels=["tier", "state"])
        nodes = GaugeMetricFamily("ragcache_cache_nodes", "Nodes of the knowledge tree", labels=["tier"])
        dropped = CounterMetricFamily(
            "ragcache_cache_dropped", "Segments that left a tier, by reason", labels=["tier", "reason"]
        )
        failures = CounterMetricFamily(
            "ragcache_cache_failures", "Moves to or from a tier that failed, by reason", labels=["tier", "reason"]
        )
        for tier in tiers:
            for state in ("total", "free", "cached", "held"):
                held.add_metric([tier.name, state], getattr(tier.balance, state))
            nodes.add_metric([tier.name], tier.nodes)
            for name in ("evictions", "rejections", "mirrors", "orphans", "cleared"):
                dropped.add_metric([tier.name, name], getattr(tier.counts, name))
            for reason, count in tier.counts.failures.items():
                failures.add_metric([tier.name, reason], count)
        yield from (held, nodes, dropped, failures)
        for name in ("hits", "misses", "insertions", "evictions", "losses", "rejections", "refusals"):
            counter = CounterMetricFamily(f"ragcache_cache_{name}", f"Cache {name} of segments", labels=["tier"])
            for tier in tiers:
                counter.add_metric([tier.name], getattr(tier.counts, name))
            yield counter
        for unit in ("moves", "bytes", "seconds"):
            moves = CounterMetricFamily(
                "ragcache_cache_moves" if unit == "moves" else f"ragcache_cache_move_{unit}",
                f"Segments moved between tiers: {unit}",
                labels=["direction"],
            )
            for direction, counts in report.moves.items():
                moves.add_metric([direction], getattr(counts, unit))
            yield moves
        yield GaugeMetricFamily("ragcache_cache_moving", "Moves under way", value=report.moving)
        yield GaugeMetricFamily("ragcache_cache_unwritten", "Segments to be written to disk", value=report.unwritten)
        yield GaugeMetricFamily(
            "ragcache_disk_other_records", "Segments on disk of other weights, dtypes or layouts", report.others.records
        )
        yield GaugeMetricFamily("ragcache_disk_other_bytes", "Bytes that they take", report.others.bytes)
        yield CounterMetricFamily(
            "ragcache_disk_other_removed", "Of them, those that have made room since the start", report.others.removed
        )
        audits = CounterMetricFamily("ragcache_cache_audits", "Recounts of the books when idle", labels=["result"])
        audits.add_metric(["right"], stats.audits + report.audits)
        audits.add_metric(["wrong"], stats.failed_audits + report.failed_audits)
        yield audits

    def _engine(self) -> Iterator[Metric]:
        stats = self._service.engine.stats()
        yield CounterMetricFamily("ragcache_engine_steps", "Forward passes", value=stats.steps)
        yield CounterMetricFamily("ragcache_engine_step_seconds", "Time in forward passes", value=stats.step_seconds)
        tokens = CounterMetricFamily("ragcache_engine_tokens", "Tokens computed by phase", labels=["phase"])
        tokens.add_metric(["prefill"], stats.prefill_tokens)
        tokens.add_metric(["decode"], stats.decode_tokens)
        yield tokens
        yield CounterMetricFamily(
            "ragcache_engine_restarts", "Threads that took over from one that died", value=stats.restarts
        )

    def _components(self) -> Iterator[Metric]:
        health = self._service.health
        up = GaugeMetricFamily(
            "ragcache_component_up",
            "1 unless it failed within the last seconds, or when last used",
            labels=["component"],
        )
        failures = CounterMetricFamily(
            "ragcache_component_failures", "Uses of the component that failed", labels=["component"]
        )
        recoveries = CounterMetricFamily(
            "ragcache_component_recoveries", "Times that it worked again after failures", labels=["component"]
        )
        for name, condition in health.conditions().items():
            up.add_metric([name], not condition.failures)
            failures.add_metric([name], health.failures(name))
            recoveries.add_metric([name], health.recoveries(name))
        yield from (up, failures, recoveries)
