import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from contracts.random_bytes import MAX_BYTES, random_bytes, random_hex


def test_no_bytes_are_given_twice_in_any_thread() -> None:
    count = 20_000
    with ThreadPoolExecutor(8) as threads:
        taken = set(threads.map(lambda _: random_bytes(MAX_BYTES), range(count)))
    assert len(taken) == count
    assert {len(one) for one in taken} == {MAX_BYTES}


def test_a_forked_process_has_bytes_of_its_own() -> None:
    random_bytes(1)  # the next ones are there already
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.write(write, random_bytes(MAX_BYTES))
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 100) not in {random_bytes(MAX_BYTES) for _ in range(1000)}
    os.close(read)
    os.close(write)


def test_hexadecimal_digits() -> None:
    assert len(random_hex(8)) == MAX_BYTES
    assert bytes.fromhex(random_hex(3))


@pytest.mark.parametrize("count", [0, -1, MAX_BYTES + 1])
def test_no_other_count_is_cut_in_silence(count: int) -> None:
    with pytest.raises(ValueError, match="1 to 16 bytes"):
        random_bytes(count)
