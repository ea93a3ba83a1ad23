"""The page of one run, or of several side by side. Every number is one of the run's files."""

import statistics
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from rxt_jax.pages import Curve, draw_curves, embed_json, write_page
from rxt_jax.pages.shell import MOST_BYTES
from rxt_jax.report.run_record import RunRecord, differing_fields, flat_fields, thinned

__all__ = ["run_page"]

_FIRST_CURVES = (
    "loss",
    "answer/loss",
    "answer/accuracy",
    "memory/update_rms",
    "memory/row_cosine",
    "tokens_per_second",
)
_NAMES = ("stage", "split", "update")
_POINTS = 200


def run_page(records: Sequence[RunRecord]) -> str:
    """Write the page, at most 2 MB of it: of long runs the curves have fewer points."""
    points = _POINTS
    while True:
        page = _page(records, points)
        if len(page.encode()) <= MOST_BYTES:
            return page
        if points < 10:
            raise ValueError(f"{len(records)} runs do not fit a page of {MOST_BYTES} bytes. Name fewer.")
        points //= 2


def _page(records: Sequence[RunRecord], points: int) -> str:
    lines = [thinned(record.metrics, points) for record in records]
    sections = (
        ("Recall by distance", _recall(records)),
        ("Curves", _curves(records, lines)),
        ("Recipe", _recipe(records)),
        ("Conversations", _samples(records)),
        ("Cost", _cost(records)),
        ("Data", _data(records)),
        ("Versions", _versions(records)),
    )
    body = "".join(f"<section><h2>{title}</h2>{text}</section>\n" for title, text in sections)
    kept = [record._replace(metrics=each)._asdict() for record, each in zip(records, lines, strict=True)]
    title = "Run " if len(records) == 1 else "Runs "
    return write_page(title + ", ".join(record.name for record in records), body + embed_json("runs", kept))


def _recipe(records: Sequence[RunRecord]) -> str:
    if len(records) == 1:
        rows = [(path, _plain(value)) for path, value in flat_fields(records[0].recipe).items()]
        return f"<details><summary>all {len(rows)} fields</summary>{_table(('field', 'value'), rows)}</details>"
    rows = [(path, *map(_plain, values)) for path, values in differing_fields(records)]
    if not rows:
        return '<p class="faint">The recipes are the same.</p>'
    head = ("field", *(record.name for record in records))
    note = "<p>Fields that are not the same in all runs; … stands where a recipe has no such field.</p>"
    return note + _table(head, rows)


def _recall(records: Sequence[RunRecord]) -> str:
    parts = dict.fromkeys(
        (part, split) for record in records for part, found in record.evaluations.items() for split in found
    )
    if not parts:
        return '<p class="faint">Nothing was evaluated: rxt evaluate RUN does that.</p>'
    text = ["<p>Share of values that greedy answers hold, by how many interactions ago they were said.</p>"]
    for part, split in parts:
        drawn, rows, buckets = [], [], []
        for record in records:
            result = record.evaluations.get(part, {}).get(split)
            if result is None:
                continue
            conditions = result["conditions"]
            curves = [
                Curve(name, [(float(d), share) for d, share in one["recall_by_distance"].items()], number)
                for number, (name, one) in enumerate(conditions.items())
            ]
            if "chance" in result and curves and curves[0].points:
                ends = (curves[0].points[0][0], curves[0].points[-1][0])
                curves.append(Curve("chance", [(x, result["chance"]) for x in ends], 4, dashed=True))
            drawn.append(draw_curves(record.name, curves, below="interactions ago", bounds=(0.0, 1.0)))
            for name, one in conditions.items():
                buckets = list(one["recall_by_bucket"])
                shares = (*one["recall_by_bucket"].values(), one["recall"])
                rows.append((record.name, name, *map(_percent, shares), f"{one['answer_perplexity']:.4g}"))
        title = f"{split} ({part})" if part else split
        head = ("run", "memory", *buckets, "all, %", "perplexity")
        text.append(
            f"<h3>{escape(title)}</h3><div class='curves'>{''.join(drawn)}</div>{_table(head, rows, first_number=2)}"
        )
    return "".join(text)


def _curves(records: Sequence[RunRecord], lines: Sequence[list[dict[str, Any]]]) -> str:
    stages = dict.fromkeys(line["stage"] for each in lines for line in each)
    if not stages:
        return '<p class="faint">No metrics.jsonl: this is no run that trained here.</p>'
    text = []
    for stage in stages:
        names = dict.fromkeys(name for each in lines for line in each if line["stage"] == stage for name in line)
        charts: dict[str, str] = {}
        for name in names:
            if name in _NAMES:
                continue
            curves = []
            for number, (record, each) in enumerate(zip(records, lines, strict=True)):
                for split in dict.fromkeys(line["split"] for line in each):
                    own = [line for line in each if (line["stage"], line["split"]) == (stage, split) and name in line]
                    points = [(line["update"], line[name]) for line in own]
                    if points:
                        label = record.name if split == "train" else f"{record.name}, {split}"
                        curves.append(Curve(label, points, number, dashed=split != "train"))
            charts[name] = draw_curves(name, curves, below="update")
        first = "".join(charts.pop(name) for name in _FIRST_CURVES if name in charts)
        rest = "".join(charts.values())
        text.append(
            f"<h3>{escape(stage)}</h3><div class='curves'>{first}</div>"
            f"<details><summary>{len(charts)} more</summary><div class='curves'>{rest}</div></details>"
        )
    return "".join(text)


def _samples(records: Sequence[RunRecord]) -> str:
    shown = [
        f"<div><h3>{escape(record.name)}: {escape(name)}</h3>{_sample(sample, record.sources.get(name[:-4]))}</div>"
        for record in records
        for name, sample in record.samples.items()
    ]
    if not shown:
        return _note("The folder has no samples.")
    note = (
        "<p>Memory: what the answer's log-probability loses, in nats, when memory is zeros (measured). Said before: "
        "words of the answer by the one earlier turn that said them (compared, not measured).</p>"
    )
    known = any(record.sources for record in records)
    return f"{note if known else ''}<div class='curves'>{''.join(shown)}</div>"


def _sample(sample: str, sources: list[dict[str, Any]] | None) -> str:
    if sources is None:
        return f"<pre>{escape(sample)}</pre>"
    rows = [
        (
            str(number),
            turn["query"],
            turn["answer"],
            f"{turn['memory_nats']:+.1f}",
            "; ".join(f"turn {int(place) + 1}: {', '.join(words)}" for place, words in turn["said"].items()),
        )
        for number, turn in enumerate(sources, 1)
    ]
    return _table(("turn", "you", "model", "memory", "said before"), rows)


def _cost(records: Sequence[RunRecord]) -> str:
    rows = []
    for record in records:
        stages = dict.fromkeys(line["stage"] for line in record.metrics)
        for stage in dict.fromkeys((*stages, *record.account["stages"])):
            trained = [line for line in record.metrics if (line["stage"], line["split"]) == (stage, "train")]
            speeds, shares = ([line[name] for line in trained if name in line] for name in ("tokens_per_second", "mfu"))
            sittings = record.account["stages"].get(stage, [])
            rows.append(
                (
                    record.name,
                    stage,
                    str(max((line["update"] for line in trained), default="")),
                    f"{statistics.median(speeds):,.0f}" if speeds else "",
                    _percent(statistics.median(shares)) if shares else "–",
                    *(
                        f"{sum(each[name] for each in sittings):,.0f}" if sittings else ""
                        for name in ("seconds", "compile_seconds")
                    ),
                    ", ".join(dict.fromkeys(str(each["device"]) for each in sittings)),
                )
            )
    head = (
        "run",
        "stage",
        "updates",
        "tokens/s (median)",
        "% of peak (median)",
        "seconds",
        "of them compiling",
        "device",
    )
    note = (
        ""
        if all(record.account["stages"] for record in records)
        else _note("Runs of before kept no account of their time.")
    )
    return _table(head, rows, first_number=2) + note


def _data(records: Sequence[RunRecord]) -> str:
    kept = [flat_fields(record.account["data"]) if record.account["data"] else {} for record in records]
    if not any(kept):
        return _note("These runs kept no account of their data.")
    paths = dict.fromkeys(path for each in kept for path in each)
    rows = [(path, *(_plain(each.get(path, "")) for each in kept)) for path in paths]
    return _table(("records and rows", *(record.name for record in records)), rows, first_number=1)


def _versions(records: Sequence[RunRecord]) -> str:
    packages = dict.fromkeys(name for record in records for name in record.versions)
    rows = [(name, *(record.versions.get(name, "") for record in records)) for name in packages]
    rows.append(("git", *(record.git or "" for record in records)))
    return _table(("package", *(record.name for record in records)), rows)


def _table(head: Iterable[str], rows: Iterable[Sequence[str]], *, first_number: int = 99) -> str:
    def cells(kind: str, row: Iterable[str]) -> str:
        return "".join(
            f"<{kind}{' class=number' if place >= first_number else ''}>{escape(str(text))}</{kind}>"
            for place, text in enumerate(row)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<div class='wide'><table><thead><tr>{cells('th', head)}</tr></thead><tbody>{body}</tbody></table></div>"


def _note(text: str) -> str:
    return f'<p class="faint">{text}</p>'


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else "–" if value is None else str(value)
