"""The results as rows of text, for the terminal and the page."""

from benchmarks.comparison.figures import Part, Row

HEADER = (
    "server",
    "images/s, 16 clients",
    "relative to Opsin",
    "p99 ms",
    "p50 ms, 1 client",
    "memory MiB",
    "start s",
    "idle cores",
    "errors",
)


def rows_of(part: Part) -> list[tuple[str, ...]]:
    """One row per server, in the order in which they were started."""
    return [_row(part, row) for row in part.rows]


def _row(part: Part, row: Row) -> tuple[str, ...]:
    name = f"{row.name} {row.version}"
    if row.failure is not None:
        return (name, f"not measured: {row.failure}", *[""] * (len(HEADER) - 2))
    share = row.throughput / part.opsin.throughput if part.opsin.throughput else None
    return (
        name,
        f"{row.throughput:.1f}",
        number(share, 2),
        number(row.p99, 0),
        number(row.p50_alone, 1),
        f"{row.pss_mib:.0f}",
        f"{row.ready_seconds:.1f}",
        f"{row.idle_cpu:.2f}",
        str(row.errors),
    )


def number(value: float | None, digits: int) -> str:
    """A number, or a dash for None."""
    return "-" if value is None else f"{value:.{digits}f}"


def verdicts(part: Part, cores: int) -> list[tuple[str, str, str]]:
    """The goals: (goal, measured value, whether it is met)."""
    if not part.opsin.throughput:
        return []
    best, same = part.best_peer, part.best_with_our_runtime
    goals = [_against_peer(part.opsin, best, 2.0 if _is_vgg(part) else 1.6)]
    int8 = [row for row in part.rows if _is_int8(row)]
    goals += [_against_peer(row, best, 3.5 if _is_vgg(part) else 2.0) for row in int8]
    goals += [_against_peer(part.opsin, same, 1.5)]
    goals += [_against_bound(part, cores), _p99(part), _single_client(part)]
    goals += _latency(part) + _memory(part)
    return [verdict for verdict in goals if verdict is not None]


def _yes_no(met: bool) -> str:
    return "yes" if met else "no"


def _is_vgg(part: Part) -> bool:
    return part.title.startswith("VGG")


def _is_int8(row: Row) -> bool:
    return row.name.endswith("int8") and bool(row.throughput)


def _against_peer(row: Row, best: Row | None, goal: float) -> tuple[str, str, str] | None:
    if best is None:
        return None
    ratio = row.throughput / best.throughput
    what = "the best peer with our runtime" if best.has_our_runtime else "the best peer"
    return (
        f"{row.name}: at least {goal}x {what} ({best.name})",
        f"{ratio:.2f}x",
        _yes_no(ratio >= goal),
    )


def _against_bound(part: Part, cores: int) -> tuple[str, str, str] | None:
    bound = part.bound(cores)
    if bound is None:
        return None
    share = part.opsin.throughput / bound
    return (
        f"at least 75% of the bound ({bound:.0f} images/s)",
        f"{share:.0%}",
        _yes_no(share >= 0.75),
    )


def _p99(part: Part) -> tuple[str, str, str] | None:
    best, p99 = part.best_peer, part.opsin.p99
    if best is None or best.p99 is None or p99 is None:
        return None
    ratio = p99 / best.p99
    return ("p99 at 16 clients below the best peer's", f"{ratio:.2f} of it", _yes_no(ratio < 1))


def _single_client(part: Part) -> tuple[str, str, str] | None:
    decode, p50 = part.floor.get("decode_core_ms"), part.opsin.p50_alone
    stages = [r.stages for r in part.opsin.alone if r.stages]
    if decode is None or p50 is None or not stages:
        return None
    computed = sorted(times["compute"] for times in stages)[len(stages) // 2]
    over = p50 - decode - computed
    return (
        "p50 at 1 client within 3 ms of decode + compute",
        f"{over:.1f} ms over",
        _yes_no(over <= 3),
    )


def _latency(part: Part) -> list[tuple[str, str, str]]:
    rows = []
    for share, result in part.opsin.poisson.items():
        if share > 0.8 or not result.latency:
            continue
        p99, at = result.latency["p99"], f"at {share:.0%} of capacity"
        ratio = p99 / result.latency["p50"]
        rows.append((f"p99 at most 3.5x p50 {at}", f"{ratio:.1f}x", _yes_no(ratio <= 3.5)))
        for has_our_runtime, whose in ((False, "peer's"), (True, "peer's with our runtime")):
            best = _least_p99(part, share, has_our_runtime=has_our_runtime)
            if best is not None:
                what = f"p99 below every {whose} {at}"
                rows.append((what, f"{p99 / best:.2f} of the least", _yes_no(p99 < best)))
    return rows


def _memory(part: Part) -> list[tuple[str, str, str]]:
    most = {"API": 150} if _is_vgg(part) else {"API": 150, "worker": 400}
    return [
        (
            f"{name}: less than {most[name]} MiB",
            f"{size.pss:.0f} MiB",
            _yes_no(size.pss < most[name]),
        )
        for name, size in part.memory.items()
        if name in most
    ]


def _least_p99(part: Part, share: float, *, has_our_runtime: bool) -> float | None:
    """The lowest of the peers at a share of the capacity; None if none was measured there."""
    results = [
        row.poisson[share].latency
        for row in part.peers
        if share in row.poisson and row.has_our_runtime == has_our_runtime
    ]
    return min((latency["p99"] for latency in results if latency), default=None)
