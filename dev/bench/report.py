#!/usr/bin/python3
"""Makes tables (Markdown) and plots (SVG) of what measure.py found.

A number is the median over the rounds. A ratio is taken within each round, where both targets met
the same machine, and is the median of those. Only the plots need matplotlib.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import median
from typing import Any, Optional

Json = dict[str, Any]

# What is compared with everything else.
COMPARED = ("fcgid-python", "fcgid-c")

# The loads that differ only in the number of clients.
SMALL = "hello-"

# The field that tells how fast a target is; of a burst, how long it takes.
SPEED = "requests_per_s"
P99 = "p99_ms"
BURST = "burst"
BURST_TIME = "last_ms"


def main() -> int:
    """Write the report as the command line says; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("result", type=Path, help="JSON of measure.py")
    parser.add_argument("directory", type=Path, help="where the report goes")
    options = parser.parse_args()
    result: Json = json.loads(options.result.read_text())
    options.directory.mkdir(parents=True, exist_ok=True)
    (options.directory / "benchmark.md").write_text(markdown(result))
    plot(result, options.directory)
    return 0


# --- Arithmetic ----------------------------------------------------------------------------------


def by_round(result: Json, target: str, load: str, field: str) -> dict[int, float]:
    """Return what was measured in each round; of several bursts in one round, the median."""
    rounds: dict[int, list[float]] = {}
    for sample in result["samples"]:
        if (sample["target"], sample["load"]) == (target, load):
            rounds.setdefault(sample["round"], []).append(sample[field])
    return {number: median(found) for number, found in rounds.items()}


def middle(result: Json, target: str, load: str, field: str) -> Optional[float]:
    """Return the median over the rounds, or None where nothing was measured."""
    found = by_round(result, target, load, field)
    return median(found.values()) if found else None


def ratio(result: Json, target: str, other: str, load: str, field: str) -> Optional[float]:
    """Return the median over the rounds of `target` by `other`, or None without both of them."""
    values = by_round(result, target, load, field)
    others = by_round(result, other, load, field)
    found = [values[number] / others[number] for number in values if others.get(number)]
    return median(found) if found else None


def failures(result: Json, target: str, load: str) -> dict[str, int]:
    """Return how many requests failed in all rounds together, for each kind of failure seen."""
    kinds: dict[str, int] = {}
    for sample in result["samples"]:
        if (sample["target"], sample["load"]) == (target, load):
            for kind, count in sample["errors"].items():
                if count:
                    kinds[kind] = kinds.get(kind, 0) + count
    return kinds


# --- Tables --------------------------------------------------------------------------------------


def markdown(result: Json) -> str:
    """Return the whole report."""
    targets = [target["name"] for target in result["targets"]]
    loads = [load["name"] for load in result["loads"] if load["name"] != BURST]
    parts = [
        "# Benchmark\n\nMade by `make bench`. The raw numbers: [benchmark.json](benchmark.json).\n",
        _conditions(result),
        "![Requests a second](benchmark-requests.svg)\n\n![Latency](benchmark-latency.svg)\n\n"
        "![Other loads](benchmark-others.svg)\n",
        "## Ratios\n\nOf requests a second: 2.00 is twice as many as the target of the row. "
        "Of a burst, of the time until the last answer: 0.50 is half as long.\n",
    ]
    parts += _ratios(result, "against", {**dict.fromkeys(loads, SPEED), BURST: BURST_TIME})
    parts.append(
        "The same of the time within which 99 of 100 answers came: 0.50 is half as long.\n"
    )
    parts += _ratios(result, "against, p99", dict.fromkeys(loads, P99))
    parts.append(
        "## Medians\n\nwrk knows nothing of a request that is unanswered when its time is over, "
        "and adds to its latencies those of the requests that a waiting client would have sent "
        "meanwhile. Where all clients are served alike, half of the answers take about the number "
        "of clients divided by the requests a second. Much less means that some clients are served "
        "and others wait: see the slowest answer, and the bursts.\n"
    )
    for title, field in (
        ("Requests a second", SPEED),
        ("Half of the answers within, ms", "p50_ms"),
        ("99 of 100 answers within, ms", P99),
        ("The slowest answer, ms", "max_ms"),
    ):
        digits = 0 if field == SPEED else 1
        parts.append(
            _table(
                title,
                loads,
                {
                    name: [_number(middle(result, name, load, field), digits) for load in loads]
                    for name in targets
                },
            )
        )
    parts.append(
        _table(
            "Bursts after idleness, ms",
            ["last answer", "half of the answers", "slowest answer"],
            {
                name: [
                    _number(middle(result, name, BURST, field), 1)
                    for field in (BURST_TIME, "p50_ms", "max_ms")
                ]
                for name in targets
            },
        )
    )
    parts.append(_exceptions(result))
    return "\n".join(parts)


def _conditions(result: Json) -> str:
    settings, machine = result["settings"], result["machine"]
    same = result["modules"]["patched"]["sha256"] == result["modules"]["pristine"]["sha256"]
    lines = [
        f"{result['begun']}; {machine['cores']} cores, {machine['processor']}, "
        f"Linux {machine['kernel']}. The load generator shares the cores with the servers.",
        f"{settings['rounds']} rounds of {settings['seconds']} s for each load and target after "
        f"{settings['warm_up']} s of warm-up and {settings['settle']:g} s to answer what it left; "
        f"{settings['bursts']} bursts a round, each after {settings['idle']:g} s of idleness.",
        _steal(result),
    ]
    if same:
        lines.append(
            "**In this run the mod_fcgid of this collection was the released one, unpatched.**"
        )
    targets = [f"| `{target['name']}` | {target['title']} |" for target in result["targets"]]
    loads = [f"| `{load['name']}` | {load['title']} |" for load in result["loads"]]
    software = ", ".join(f"{name} {version}" for name, version in result["software"].items())
    tables = ["| Target | |", "|---|---|", *targets, "", "| Load | |", "|---|---|", *loads]
    return "\n".join(["\n\n".join(lines), "", *tables, "", f"Versions: {software}.", ""])


def _steal(result: Json) -> str:
    """Return how much of the cores' time went to other guests, and in which run most of it."""
    runs = [sample for sample in result["samples"] if sample["load"] != BURST]
    most = max(runs, key=lambda sample: sample["steal_ms"])
    total = sum(sample["steal_ms"] for sample in runs)
    return (
        f"Other guests of the host had {total} ms of the cores' time meanwhile, and "
        f"{most['steal_ms']} ms in the worst run: `{most['target']}`, `{most['load']}`, "
        f"round {most['round']}."
    )


def _ratios(result: Json, title: str, fields: dict[str, str]) -> list[str]:
    """Return the tables of what is compared; `fields` names, for each load, the one to compare."""
    targets = [target["name"] for target in result["targets"]]
    return [
        _table(
            f"{compared} {title}",
            list(fields),
            {
                other: [
                    _number(ratio(result, compared, other, load, field), 2)
                    for load, field in fields.items()
                ]
                for other in targets
                if other != compared
            },
        )
        for compared in COMPARED
        if compared in targets
    ]


def _exceptions(result: Json) -> str:
    lines = ["## Errors, and what was left out", ""]
    for target in result["targets"]:
        name = target["name"]
        for load in result["loads"]:
            failed = failures(result, name, load["name"])
            if failed:
                kinds = ", ".join(f"{count} {kind}" for kind, count in failed.items())
                lines.append(f"- `{name}`, `{load['name']}`: {kinds}")
        for load_name, reason in target.get("left_out", {}).items():
            lines.append(f"- `{name}` without `{load_name}`: {reason}")
    if not any(
        failures(result, s["name"], x["name"]) for s in result["targets"] for x in result["loads"]
    ):
        lines.append("- No request failed.")
    return "\n".join([*lines, ""])


def _table(title: str, columns: list[str], rows: dict[str, list[str]]) -> str:
    lines = [f"| {title} | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    lines += [f"| {name} | " + " | ".join(row) + " |" for name, row in rows.items()]
    return "\n".join([*lines, ""])


def _number(value: Optional[float], digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


# --- Plots ---------------------------------------------------------------------------------------


def plot(result: Json, directory: Path) -> None:
    """Write the plots: medians, each with a line from the lowest to the highest round."""
    import matplotlib

    matplotlib.use("svg")
    # The same numbers give the same file.
    matplotlib.rcParams["svg.hashsalt"] = "fcgid-bench"
    from matplotlib import pyplot

    def save(figure: Any, name: str) -> None:
        figure.savefig(directory / name, metadata={"Date": None}, bbox_inches="tight")

    small = [load for load in result["loads"] if load["name"].startswith(SMALL)]
    others = [load for load in result["loads"] if load not in small]

    for name, title, field in (
        ("benchmark-requests.svg", "Small answers: requests a second", SPEED),
        ("benchmark-latency.svg", "Small answers: 99 of 100 within, ms", P99),
    ):
        figure, axes = pyplot.subplots(figsize=(9, 6))
        _lines(axes, result, small, field)
        axes.set(title=title, xlabel="clients")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        save(figure, name)

    figure, panels = pyplot.subplots(1, len(others), figsize=(14, 5), sharey=True, squeeze=False)
    for axes, load in zip(panels[0], others):
        burst = load["name"] == BURST
        _bars(axes, result, load["name"], BURST_TIME if burst else SPEED)
        axes.set_title(load["title"].replace(", ", "\n"), fontsize="small")
        axes.set_xlabel("ms until the last answer" if burst else "requests a second")
        axes.set_xscale("log" if burst else "linear")
    panels[0][0].invert_yaxis()  # shared: the first target is on top in all of them
    save(figure, "benchmark-others.svg")


def _lines(axes: Any, result: Json, loads: list[Json], field: str) -> None:
    for target, colour in _colours(result).items():
        found = {
            load["clients"]: list(rounds.values())
            for load in loads
            if (rounds := by_round(result, target, load["name"], field))
        }
        medians = [median(rounds) for rounds in found.values()]
        axes.errorbar(
            list(found),
            medians,
            yerr=_spread(list(found.values())),
            label=target,
            color=colour,
            linewidth=3 if target in COMPARED else 1.2,
            marker="o",
            capsize=2,
        )
    clients = [load["clients"] for load in loads]
    axes.set(xscale="log", yscale="log")
    axes.set_xticks(clients, labels=clients)
    axes.set_xticks([], minor=True)
    axes.grid(alpha=0.3)


def _bars(axes: Any, result: Json, load: str, field: str) -> None:
    targets = _colours(result)
    for row, (target, colour) in enumerate(targets.items()):
        found = list(by_round(result, target, load, field).values())
        if found:
            axes.barh(row, median(found), xerr=_spread([found]), color=colour, capsize=2)
    axes.set_yticks(range(len(targets)), labels=targets)
    axes.grid(axis="x", alpha=0.3)


def _colours(result: Json) -> dict[str, str]:
    from matplotlib import pyplot

    names = [target["name"] for target in result["targets"]]
    return dict(zip(names, pyplot.get_cmap("tab20").colors))


def _spread(rounds: list[list[float]]) -> list[list[float]]:
    """Return how far the lowest and the highest round are from the median, for each point."""
    return [
        [median(found) - min(found) for found in rounds],
        [max(found) - median(found) for found in rounds],
    ]


if __name__ == "__main__":
    sys.exit(main())
