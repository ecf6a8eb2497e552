"""The figures as rows of text, once for the terminal and once for the page."""

from benchmarks.figures import Part, Row

HEADER = (
    "server",
    "images/s, 16 clients",
    "of Opsin's",
    "p99 ms",
    "p50 ms, 1 client",
    "memory MiB",
    "start s",
    "idle cores",
    "errors",
)


def rows_of(part: Part) -> list[tuple[str, ...]]:
    """One row a server, in the order they were started."""
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
    """A figure, or a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def verdicts(part: Part, cores: int) -> list[tuple[str, str, str]]:
    """What is promised, what was measured, and whether it holds: (what, measured, holds)."""
    if not part.opsin.throughput:
        return []
    found = [_against_peer(part, part.opsin, 1.9 if _is_vgg(part) else 2.0)]
    found += [_against_peer(part, row, 3.5) for row in part.rows if _is_vgg(part) and _is_int8(row)]
    found += [_against_bound(part, cores), _p99(part), _lone(part)]
    found += _latency(part)
    return [verdict for verdict in found if verdict is not None]


def _holds(truth: bool) -> str:
    return "yes" if truth else "no"


def _is_vgg(part: Part) -> bool:
    return part.title.startswith("VGG")


def _is_int8(row: Row) -> bool:
    return row.name.endswith("int8") and bool(row.throughput)


def _against_peer(part: Part, ours: Row, wanted: float) -> tuple[str, str, str] | None:
    best = part.best_peer
    if best is None:
        return None
    ratio = ours.throughput / best.throughput
    return (
        f"{ours.name}: at least {wanted}x the best peer ({best.name})",
        f"{ratio:.2f}x",
        _holds(ratio >= wanted),
    )


def _against_bound(part: Part, cores: int) -> tuple[str, str, str] | None:
    bound = part.bound(cores)
    if bound is None:
        return None
    share = part.opsin.throughput / bound
    return (
        f"at least 75 % of the bound ({bound:.0f} images/s)",
        f"{share:.0%}",
        _holds(share >= 0.75),
    )


def _p99(part: Part) -> tuple[str, str, str] | None:
    best, ours = part.best_peer, part.opsin.p99
    if best is None or best.p99 is None or ours is None:
        return None
    ratio = ours / best.p99
    return ("p99 at 16 clients below the best peer's", f"{ratio:.2f} of it", _holds(ratio < 1))


def _lone(part: Part) -> tuple[str, str, str] | None:
    decode, ours = part.floor.get("decode_core_ms"), part.opsin.p50_alone
    told = [r.stages for r in part.opsin.alone if r.stages]
    if decode is None or ours is None or not told:
        return None
    computed = sorted(stages["compute"] for stages in told)[len(told) // 2]
    over = ours - decode - computed
    return (
        "p50 at 1 client within 4 ms of decode + compute",
        f"{over:.1f} ms over",
        _holds(over <= 4),
    )


def _latency(part: Part) -> list[tuple[str, str, str]]:
    rows = []
    for share, result in part.poisson.items():
        if share <= 0.8 and result.latency:
            ratio = result.latency["p99"] / result.latency["p50"]
            what = f"p99 at most 3x p50 at {share:.0%} of capacity"
            rows.append((what, f"{ratio:.1f}x", _holds(ratio <= 3)))
    return rows
