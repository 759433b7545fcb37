"""Curve: what more memory buys, as a plot with a line for each policy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ragcache.errors import ConfigError
from ragcache.simulate.simulation import Outcome
from ragcache.whole_file import check_writable, written_whole

try:
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, NullLocator, PercentFormatter
except ImportError:  # the extra `plot` is not installed
    Figure = None  # type: ignore[assignment,misc]

_FORMATS = (".png", ".pdf", ".svg")
# markers tell the lines apart without colours; the bound that the others are measured against is black
_MARKERS = "osD^vP*X<>"
_BOUND = "belady"


def check_plotting(file: Path) -> None:
    """Raises ConfigError if a plot could not be written to `file`."""
    if Figure is None:
        raise ConfigError("--curve needs matplotlib: pip install 'ragcache[plot]'")
    if file.suffix.lower() not in _FORMATS:
        raise ConfigError(f"{file}: the curve's file ends in one of {', '.join(_FORMATS)}")
    if not file.absolute().parent.is_dir():
        raise ConfigError(f"{file}: there is no folder {file.parent}")
    check_writable(file)


def draw(outcomes: Sequence[Outcome], file: Path, *, title: str) -> None:
    """Plots document hit ratio and share of prefill time saved against capacity, with a line for each policy."""
    policies = list(dict.fromkeys(outcome.policy for outcome in outcomes))
    capacities = sorted({outcome.capacity for outcome in outcomes})
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    panels = figure.subplots(1, 2)
    for panel, what, values in (
        (panels[0], "documents found in the cache", "hit_ratio"),
        (panels[1], "prefill time saved", "seconds_saved_ratio"),
    ):
        for number, policy in enumerate(policies):
            own = sorted((o for o in outcomes if o.policy == policy), key=lambda o: o.capacity)
            bound = policy == _BOUND
            panel.plot(
                [outcome.capacity for outcome in own],
                [getattr(outcome, values) for outcome in own],
                label=f"{policy} (clairvoyant)" if bound else policy,
                color="black" if bound else f"C{number % 10}",
                linestyle="--" if bound else "-",
                linewidth=1.4,
                marker=_MARKERS[number % len(_MARKERS)],
                markersize=4.5,
            )
        panel.set_xscale("log", base=2)
        panel.set_xticks(capacities)
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        panel.xaxis.set_minor_locator(NullLocator())
        panel.tick_params(axis="x", labelrotation=45 if len(capacities) > 8 else 0)
        panel.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        panel.set_ylim(bottom=0)
        panel.set_xlabel("capacity (tokens, or the trace's unit of size)")
        panel.set_title(what, fontsize=11)
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    figure.suptitle(title, fontsize=12)
    with written_whole(file) as unfinished:
        figure.savefig(unfinished, dpi=150)
