"""Which memory a process may use, with the files of control groups."""

from pathlib import Path

import psutil
import pytest

from models.memory.machine import machine_memory

MIB = 1024 * 1024


def group(folder: Path, limit: str, current: int, cached: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(limit + "\n")
    (folder / "memory.current").write_text(f"{current}\n")
    (folder / "memory.stat").write_text(
        f"anon 1\nfile {2 * cached}\ninactive_file {cached - 10}\nactive_file 10\n"
    )


def test_without_a_limit_it_is_the_memory_of_the_machine(tmp_path: Path) -> None:
    group(tmp_path / "a", "max", 10, 10)
    (tmp_path / "own").write_text("0::/a\n")
    memory = machine_memory(tmp_path, tmp_path / "own")
    assert memory.total == psutil.virtual_memory().total
    assert 0 < memory.available < memory.total
    assert memory.owner == machine_memory(tmp_path / "none", tmp_path / "none").owner


@pytest.mark.parametrize("own", ["0::/\n", "1:memory:/x\n0::/\n", "0::/../elsewhere\n", None])
def test_a_container_has_its_own(tmp_path: Path, own: str | None) -> None:
    """In a container, its group is at the top; what is cached counts as available."""
    group(tmp_path, str(100 * MIB), 60 * MIB, 20 * MIB)
    if own is not None:
        (tmp_path / "own").write_text(own)
    memory = machine_memory(tmp_path, tmp_path / "own")
    assert (memory.total, memory.available) == (100 * MIB, 60 * MIB)
    assert memory.owner != machine_memory(tmp_path / "none", tmp_path / "none").owner


def test_the_smallest_of_several_limits_counts(tmp_path: Path) -> None:
    """As of systemd's `MemoryMax` of a service, or of a slice around it."""
    group(tmp_path / "slice", str(80 * MIB), 50 * MIB, 20 * MIB)
    owners = []
    for name, limit in (("one", "max"), ("two", str(200 * MIB)), ("three", str(70 * MIB))):
        group(tmp_path / "slice" / name, limit, 5 * MIB, 10)
        (tmp_path / "own").write_text(f"0::/slice/{name}\n")
        memory = machine_memory(tmp_path, tmp_path / "own")
        assert memory.total == (70 if name == "three" else 80) * MIB
        assert memory.available == 50 * MIB
        owners.append(memory.owner)
    assert owners[0] == owners[1] != owners[2]


def test_a_group_over_its_limit_has_nothing_left(tmp_path: Path) -> None:
    group(tmp_path, str(MIB), 2 * MIB, 20)
    assert machine_memory(tmp_path, tmp_path / "own").available == 0
