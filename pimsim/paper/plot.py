"""Plot: the paper's figures 12 to 15 in our form: throughput, latency, energy and the gains of the switches."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pimsim.errors import PimsimError
from pimsim.paper.evaluation import (
    MODELS,
    PARTS,
    RETRIEVE_EVERY,
    SWITCHES,
    SYSTEMS,
    Evaluation,
    energy,
    energy_parts,
    latency,
    throughput,
)

NAMES = {"heterrag": "HeterRAG", "cpu-gpu-v100": "CPU-GPU", "naive-hbm": "NaiveHBM", "only-dimm": "OnlyDIMM"}
# Okabe and Ito's colours, which the colour-blind can tell apart
COLOURS = {"cpu-gpu-v100": "#999999", "naive-hbm": "#E69F00", "only-dimm": "#56B4E9", "heterrag": "#009E73"}
SWITCH_COLOURS = {"r": "#0072B2", "g": "#D55E00", "p": "#CC79A7"}
HATCHES = dict(zip(PARTS, ("////", "", "xxxx", "...."), strict=True))
MODEL = "llama2-7b"  # of figures 13 to 15


def draw(evaluations: Mapping[str, Evaluation], file: Path) -> None:
    """Draw a column for each case and a row for each figure; all but the switches are normalised to CPU-GPU.

    PimsimError if the file cannot be written.
    """
    figure = importlib.import_module("matplotlib.figure").Figure(
        figsize=(3.6 * len(evaluations), 8.4), layout="constrained"
    )
    axes = figure.subplots(4, len(evaluations), squeeze=False, sharey="row")
    for column, (name, one) in enumerate(evaluations.items()):
        groups = [(model, mode) for model in MODELS for mode in RETRIEVE_EVERY]
        labels = [f"{'GPT-2' if model.startswith('gpt2') else 'LLaMA'}\n{mode}" for model, mode in groups]
        rows = {
            system: [
                throughput(one.runs[system, model, mode]) / throughput(one.runs["cpu-gpu-v100", model, mode])
                for model, mode in groups
            ]
            for system in SYSTEMS
        }
        _bars(axes[0][column], labels, {NAMES[name]: (COLOURS[name], rows[name]) for name in COLOURS})
        latencies = {
            NAMES[system]: (
                COLOURS[system],
                [
                    latency(one.runs[system, MODEL, mode]) / latency(one.runs["cpu-gpu-v100", MODEL, mode])
                    for mode in RETRIEVE_EVERY
                ],
            )
            for system in COLOURS
        }
        _bars(axes[1][column], list(RETRIEVE_EVERY), latencies)
        _energies(axes[2][column], one)
        gains = {
            switch: (SWITCH_COLOURS[switch], [one.gains[switch][m] for m in RETRIEVE_EVERY]) for switch in SWITCHES
        }
        _bars(axes[3][column], list(RETRIEVE_EVERY), gains, base=1.0)
        axes[0][column].set_title(name, fontsize=9)
    for row, label in enumerate(("throughput", "latency (LLaMA2-7B)", "energy (LLaMA2-7B)")):
        axes[row][0].set_ylabel(f"{label} / CPU-GPU", fontsize=8)
    axes[3][0].set_ylabel("throughput / base (LLaMA2-7B)", fontsize=8)
    axes[3][0].set_ylim(*limits(evaluations.values()))
    _tell_hatches(axes[2][0])
    axes[3][0].legend(fontsize=7, frameon=False, ncols=3, loc="upper left")
    figure.legend(
        *axes[0][0].get_legend_handles_labels(), fontsize=8, frameon=False, ncols=4, loc="outside upper center"
    )
    try:
        figure.savefig(file, dpi=200)
    except OSError as error:
        raise PimsimError(f"cannot write {file}: {error.strerror}") from error


def limits(evaluations: Iterable[Evaluation]) -> tuple[float, float]:
    """The range in which all gains are seen, with room above them for the legend."""
    shown = [1.0]
    for one in evaluations:
        shown += [gain for gains in one.gains.values() for gain in gains.values()]
    span = max(max(shown) - min(shown), 0.1)
    return min(shown) - 0.05 * span, max(shown) + 0.3 * span


def _bars(axis: Any, labels: list[str], groups: Mapping[str, tuple[str, list[float]]], base: float = 0.0) -> None:
    """Draw bars from `base` up or down to their values."""
    width = 0.8 / len(groups)
    for bar, (name, (colour, values)) in enumerate(groups.items()):
        places = [place + (bar - (len(groups) - 1) / 2) * width for place in range(len(values))]
        axis.bar(places, [value - base for value in values], width, base, label=name, color=colour)
    _finish(axis, labels)


def _finish(axis: Any, labels: list[str]) -> None:
    axis.axhline(1, color="black", linewidth=0.6)
    axis.set_xticks(range(len(labels)), labels, fontsize=6)
    axis.tick_params(axis="y", labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)


def _energies(axis: Any, one: Evaluation) -> None:
    """Draw bars of their parts, one on the other."""
    width = 0.8 / len(COLOURS)
    for number, (system, colour) in enumerate(COLOURS.items()):
        for group, mode in enumerate(RETRIEVE_EVERY):
            whole = energy(one.runs["cpu-gpu-v100", MODEL, mode])
            below = 0.0
            for part, nj in energy_parts(one.runs[system, MODEL, mode]).items():
                place = group + (number - (len(COLOURS) - 1) / 2) * width
                bar = {"color": colour, "hatch": HATCHES[part], "edgecolor": "white", "linewidth": 0}
                axis.bar(place, nj / whole, width, bottom=below, **bar)
                below += nj / whole
    _finish(axis, list(RETRIEVE_EVERY))


def _tell_hatches(axis: Any) -> None:
    patch = importlib.import_module("matplotlib.patches").Patch
    kinds = [
        patch(facecolor="#999999", edgecolor="white", hatch=hatch, label=part, linewidth=0)
        for part, hatch in HATCHES.items()
    ]
    axis.set_ylim(top=1.25 * axis.get_ylim()[1])  # room for the legend of the parts
    axis.legend(handles=kinds, fontsize=7, frameon=False, ncols=4, loc="upper left")
