"""Table and picture of what `benchmarks/reinforcement.py` measured: python benchmarks/reinforcement_report.py [JSON]"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

FOLDER = Path(__file__).parent


def main() -> None:
    found = json.loads(Path(sys.argv[1] if len(sys.argv) > 1 else FOLDER / "reinforcement.json").read_text())
    names = list(dict.fromkeys(each["algorithm"] for each in found))
    figure, axis = plt.subplots(figsize=(7, 4))
    print("| algorithm | seeds | before | after | updates to 90 % of the optimum |")
    print("|---|---|---|---|---|")
    for number, name in enumerate(names):
        curves = [each["curve"] for each in found if each["algorithm"] == name]
        for curve in curves:
            axis.plot(*zip(*curve, strict=True), color=f"C{number}", alpha=0.3, linewidth=1)
        shared = min(map(len, curves))  # runs may have had other numbers of updates
        places = [place for place, _ in curves[0][:shared]]
        values = [[value for _, value in curve[:shared]] for curve in curves]
        axis.plot(places, np.mean(values, axis=0), f"C{number}", label=name)
        reached = [next((place for place, value in curve if value >= 0.9), None) for curve in curves]
        before, after = ([curve[place][1] for curve in curves] for place in (0, -1))
        row = (
            name,
            len(curves),
            _join(before),
            _join(after),
            ", ".join("never" if r is None else str(r) for r in reached),
        )
        print("| " + " | ".join(map(str, row)) + " |")
    axis.axhline(0.125, color="gray", linestyle=":", label="chance")
    axis.set(xlabel="updates", ylabel="right answers, greedy", ylim=(0, 1.02))
    axis.legend()
    figure.tight_layout()
    figure.savefig(FOLDER / "reinforcement.png", dpi=110)


def _join(values: list[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


if __name__ == "__main__":
    main()
