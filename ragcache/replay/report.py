"""ReplayReport: the figures of a replay, as JSON and as a table."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ragcache.cost import PrefillCost
from ragcache.replay.replay import Outcome, Served

_DIGITS = 9  # after the point, of seconds: nanoseconds


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and percentiles (linear between neighbours) of times in seconds; all None if there are none."""

    mean: float | None
    p50: float | None
    p95: float | None
    p99: float | None

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Spread:
        values = np.fromiter(seconds, float)
        if not len(values):
            return cls(None, None, None, None)
        percentiles = np.percentile(values, [50, 95, 99])
        return cls(*(round(float(value), _DIGITS) for value in (values.mean(), *percentiles)))

    def as_dict(self) -> dict[str, float | None]:
        return {"mean": self.mean, "p50": self.p50, "p95": self.p95, "p99": self.p99}


class ReplayReport:
    """What a replay's outcomes add up to. All times are seconds.

    `ttft` is the time from a request's arrival to its first token. `time_per_output_token` is the time from the first
    token to the last, divided by the tokens between, over answers of two tokens or more. `queueing` is the time from
    the documents to the engine's first step. `search.not_overlapped` is the part of the search before anything that
    the answer was made from was being computed. `seconds` runs from the start to the last answer; throughput is divided
    by it. Hit ratios are shares of the prompts' tokens and of the requested documents. `prefill_seconds_saved` is the
    cost of all prompts less the cost of the parts that were computed.
    """

    def __init__(
        self,
        outcomes: Sequence[Outcome],
        config: Mapping[str, Any],
        *,
        most_in_flight: int,
        totals: Mapping[str, int],
        cost: PrefillCost | None = None,
    ) -> None:
        """`config` says what was replayed. `totals` are counts of the service, added to the report as they are. `cost`
        prices prefills; without it no time saved is reported."""
        self.outcomes = outcomes
        self.config = dict(config)
        self._most_in_flight = most_in_flight
        self._totals = dict(totals)
        self._cost = cost

    def as_dict(self) -> dict[str, Any]:
        """The report as nested dicts of numbers and texts."""
        served = [outcome.served for outcome in self.outcomes if outcome.served is not None]
        seconds = max((outcome.ended for outcome in self.outcomes), default=0.0)
        prompt, output = sum(s.prompt_tokens for s in served), sum(s.output_tokens for s in served)
        return {
            "config": self.config,
            "unit": "seconds",
            "requests": len(self.outcomes),
            "outcomes": dict(sorted(Counter(outcome.how for outcome in self.outcomes).items())),
            "seconds": round(seconds, _DIGITS),
            "ttft": Spread.of(s.ttft for s in served).as_dict(),
            "time_per_output_token": Spread.of(
                (s.total - s.ttft) / (s.output_tokens - 1) for s in served if s.output_tokens > 1
            ).as_dict(),
            "total": Spread.of(s.total for s in served).as_dict(),
            "queueing": {**Spread.of(s.queue for s in served).as_dict(), "most_in_flight": self._most_in_flight},
            "prefill": Spread.of(s.prefill for s in served).as_dict(),
            "search": {
                **Spread.of(s.search for s in served).as_dict(),
                "not_overlapped": Spread.of(s.search - s.search_overlap for s in served).as_dict(),
            },
            "throughput": {
                "requests_per_second": _ratio(len(served), seconds),
                "prompt_tokens_per_second": _ratio(prompt, seconds),
                "output_tokens_per_second": _ratio(output, seconds),
            },
            "tokens": {
                "prompt": prompt,
                "computed": sum(s.computed_tokens for s in served),
                "device": sum(s.device_tokens for s in served),
                "host": sum(s.host_tokens for s in served),
                "disk": sum(s.disk_tokens for s in served),
                "output": output,
            },
            "hits": self._hits(served, prompt),
            "speculation": {
                "started": sum(s.speculations for s in served),
                "used": sum(s.speculation_used for s in served),
                "wasted_tokens": sum(s.wasted_tokens for s in served),
            },
            **self._totals,
        }

    def as_json(self) -> str:
        """The report as JSON; equal reports give equal texts."""
        return json.dumps(self.as_dict(), indent=2)

    def table(self) -> str:
        """The report as a table for people, with times in milliseconds."""
        report = self.as_dict()
        lines = [f"{'milliseconds':<28}{'mean':>12}{'p50':>12}{'p95':>12}{'p99':>12}"]
        rows = {
            "time to first token": report["ttft"],
            "time per output token": report["time_per_output_token"],
            "whole answer": report["total"],
            "search": report["search"],
            "  of it not overlapped": report["search"]["not_overlapped"],
            "queue": report["queueing"],
            "prefill": report["prefill"],
        }
        for name, spread in rows.items():
            numbers = "".join(
                f"{'-' if spread[key] is None else format(spread[key] * 1000, ',.1f'):>12}"
                for key in ("mean", "p50", "p95", "p99")
            )
            lines.append(f"{name:<28}{numbers}")
        tokens, speculation, throughput, hits = (
            report[name] for name in ("tokens", "speculation", "throughput", "hits")
        )
        share = {name: _percent(tokens[name], tokens["prompt"]) for name in ("computed", "device", "host", "disk")}
        outcomes = [f"{count:,} {how}" for how, count in report["outcomes"].items()]
        lines += [
            "",
            f"requests     {report['requests']:,}: {', '.join(outcomes)}",
            f"throughput   {throughput['requests_per_second']:,.2f} requests/s, "
            f"{throughput['output_tokens_per_second']:,.1f} tokens/s in {report['seconds']:,.1f} s",
            f"prompts      {tokens['prompt']:,} tokens: {share['device']} from device, {share['host']} from host, "
            f"{share['disk']} from disk, {share['computed']} computed",
        ]
        if shared := report.get("shared_tokens"):
            lines.append(f"in flight    {shared:,} of these tokens were being computed for another request, and shared")
        if hits["document_ratio"] is not None:
            lines.append(f"documents    {_percent(hits['document_ratio'], 1)} found in the cache")
        if hits["prefill_seconds_saved"] is not None:
            lines.append(
                f"prefill      {hits['prefill_seconds_saved']:,.1f} s saved of {hits['prefill_seconds_uncached']:,.1f}"
            )
        lines.append(
            f"speculation  {speculation['started']:,} begun, {speculation['used']:,} used, "
            f"{speculation['wasted_tokens']:,} tokens computed for nothing"
        )
        for outcome in [outcome for outcome in self.outcomes if outcome.how in ("failed", "rejected")][:3]:
            lines.append(f"request {outcome.number + 1} {outcome.how}: {outcome.message}")
        return "\n".join(lines)

    def _hits(self, served: Sequence[Served], prompt: int) -> dict[str, float | None]:
        known = [s for s in served if s.cached_documents is not None]
        saved = whole = None
        if self._cost is not None:
            whole = sum(self._cost(0, s.prompt_tokens) for s in served)
            saved = whole - sum(self._cost(s.prompt_tokens - s.computed_tokens, s.computed_tokens) for s in served)
            whole, saved = round(whole, _DIGITS), round(saved, _DIGITS)
        return {
            "document_ratio": _ratio(sum(s.cached_documents or 0 for s in known), sum(s.documents for s in known))
            if known
            else None,
            "token_ratio": _ratio(prompt - sum(s.computed_tokens for s in served), prompt),
            "prefill_seconds_saved": saved,
            "prefill_seconds_uncached": whole,
        }


def _ratio(part: float, whole: float) -> float:
    return round(part / whole, _DIGITS) if whole else 0.0


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole if whole else 0:.1f} %"
