"""What a call costs as its input grows."""

from __future__ import annotations

from collections.abc import Sequence

from .figures import LINE_STYLES, Figure, label_axes


def curves(tokens: Sequence[int], costs: dict[str, Sequence[tuple[float, int]]], title: str) -> Figure:
    """Time and peak memory against the number of tokens, both axes logarithmic; a curve for each name.

    costs: for each name (seconds, bytes) at the first so many of `tokens`; 0 bytes: not counted. ValueError if there
    are more costs than tokens.
    """
    figure = Figure(figsize=(9, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    sentences = []
    for (name, line), (colour, style) in zip(costs.items(), LINE_STYLES, strict=False):
        if len(line) > len(tokens):
            raise ValueError(f"{name} has {len(line)} costs for {len(tokens)} numbers of tokens")
        if not line:
            continue  # not measured here
        at = tokens[: len(line)]
        times, peaks = [1e3 * seconds for seconds, _ in line], [peak / 1e6 for _, peak in line]
        left.plot(at, times, marker="o", color=colour, linestyle=style, label=name)
        if any(peaks):
            right.plot(at, peaks, marker="o", color=colour, linestyle=style, label=name)
        sentences.append(f"{name} {times[-1]:.3g} ms and {peaks[-1]:.3g} MB at {at[-1]} tokens")
    for axes, unit in ((left, "milliseconds"), (right, "peak memory (MB)")):
        axes.set(xscale="log", yscale="log")
        axes.set_xticks(tokens, [str(n) for n in tokens])
        axes.minorticks_off()
        axes.grid(color="#dddddd", linewidth=0.6)
        label_axes(axes, "tokens", unit)
    left.legend(fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=9)
    figure.alt = f"{title}: {'; '.join(sentences)}."
    return figure
