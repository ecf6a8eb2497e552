"""The pool of decoding threads: errors come through, deadlines hold, waiting is bounded."""

import asyncio
import threading
import time
from contextlib import suppress
from functools import partial

import numpy as np
import pytest

from contracts.errors import DeadlineExceeded, Draining, InvalidImage, QueueFull
from models.catalog import CATALOG
from models.images.decode import DecodedImage, decode_reduced
from models.images.gate import Gate, at_once
from service.http.deadlines import Deadline
from service.inference.decoder import Decoder, ImageWork, decode_image
from service.inference.fair_pool import CALLER, Caller
from service.inference.pixel_budget import PixelBudget
from service.metrics.request_record import RequestRecord, recording
from tests.images import bomb, encoded, scene

NETWORK = CATALOG["squeezenet"]
PHOTO = encoded(scene(), "PNG")
SLOW = bomb(7000, 7000)  # some 200 ms of honest work


async def decode(decoder: Decoder, data: bytes, seconds: float = 30) -> DecodedImage:
    return await decoder.decode(data, network=NETWORK, resize="crop", deadline_seconds=seconds)


@pytest.fixture
def decoder() -> Decoder:
    return Decoder(1, max_pixels=50_000_000)


def test_image_and_error_are_returned(decoder: Decoder) -> None:
    async def both() -> None:
        image = await decode(decoder, PHOTO)
        assert (image.width, image.height) == scene().size
        assert np.ptp(image.pixels) > 100
        with pytest.raises(InvalidImage):
            await decode(decoder, b"nothing")

    asyncio.run(both())
    decoder.close()


def test_an_image_decoded_in_its_own_way_is_noted_for_the_metrics(decoder: Decoder) -> None:
    async def both() -> list[str]:
        record, deadline = RequestRecord(), Deadline(time.monotonic() + 30, 30_000)
        with recording(record):
            for data in (PHOTO, b"nothing"):
                work = partial(decode_reduced, data, longest_side=64, max_pixels=10**6)
                with suppress(InvalidImage):
                    await decode_image(decoder, work, deadline=deadline)
        return [code for _, code in record.decoded]

    assert asyncio.run(both()) == ["", "invalid_image"]
    decoder.close()


def test_event_loop_runs_while_an_image_is_decoded(decoder: Decoder) -> None:
    async def beats() -> int:
        work = asyncio.create_task(decode(decoder, SLOW))
        count = 0
        while not work.done():
            await asyncio.sleep(0.005)
            count += 1
        await work
        return count

    assert asyncio.run(beats()) >= 5
    decoder.close()


def test_late_image_times_out_and_frees_its_slot_later(decoder: Decoder) -> None:
    async def late() -> None:
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await decode(decoder, SLOW, 0.01)
        assert time.monotonic() - started < 20
        with pytest.raises(DeadlineExceeded):
            await decode(decoder, PHOTO, 0)
        assert (await decode(decoder, PHOTO)).width == 96

    asyncio.run(late())
    decoder.close()


def test_waiting_images_are_bounded_and_slots_are_freed(decoder: Decoder) -> None:
    ready = threading.Event()

    async def crowd() -> None:
        running = asyncio.create_task(decoder.run(ready.wait, deadline_seconds=60))
        await asyncio.sleep(0)
        crowd = [asyncio.create_task(decode(decoder, PHOTO)) for _ in range(60)]
        await asyncio.sleep(0)
        ready.set()
        assert await running
        answers = await asyncio.gather(*crowd, return_exceptions=True)
        full = [answer for answer in answers if isinstance(answer, QueueFull)]
        assert sum(isinstance(answer, DecodedImage) for answer in answers) == 32
        assert len(full) == 28
        assert full[0].retry_after
        assert isinstance(await decode(decoder, PHOTO), DecodedImage)

    asyncio.run(crowd())
    decoder.close()


@pytest.mark.parametrize(("data", "is_slow"), [(PHOTO, False), (SLOW, True)])
def test_it_is_said_that_an_image_waits_with_the_slow_ones(
    decoder: Decoder, data: bytes, is_slow: bool
) -> None:
    said: list[None] = []
    asked = decoder.decode(
        data,
        network=NETWORK,
        resize="crop",
        deadline_seconds=30,
        when_slow=lambda: said.append(None),
    )
    asyncio.run(asked)
    decoder.close()
    assert bool(said) == is_slow


def test_there_is_no_room_while_all_places_are_taken(decoder: Decoder) -> None:
    ready = threading.Event()

    async def crowd() -> None:
        decoder.require_room()
        running = asyncio.create_task(decoder.run(ready.wait, deadline_seconds=60))
        waiting = [asyncio.create_task(decode(decoder, PHOTO)) for _ in range(32)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            decoder.require_room()
        ready.set()
        await asyncio.gather(running, *waiting)
        decoder.require_room()

    asyncio.run(crowd())
    decoder.close()
    with pytest.raises(Draining):
        decoder.require_room()


def test_largest_request_fits() -> None:
    decoder = Decoder(1, max_pixels=50_000_000, max_images=40)

    async def one_request() -> None:
        await asyncio.gather(*(decode(decoder, PHOTO) for _ in range(40)))

    asyncio.run(one_request())
    decoder.close()


def test_cancelled_waiting_request_is_never_decoded(decoder: Decoder) -> None:
    ready, decoded = threading.Event(), list[str]()

    async def hang_up() -> None:
        running = asyncio.create_task(decoder.run(partial(ready.wait, 60), deadline_seconds=60))
        await asyncio.sleep(0)
        waiting = [
            asyncio.create_task(decoder.run(lambda: decoded.append("left"), deadline_seconds=60))
            for _ in range(20)
        ]
        await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        ready.set()
        assert await running
        await decoder.run(lambda: decoded.append("stays"), deadline_seconds=60)

    asyncio.run(hang_up())
    assert decoded == ["stays"]
    decoder.close()


def test_closed_pool_refuses(decoder: Decoder) -> None:
    decoder.close()
    with pytest.raises(Draining):
        asyncio.run(decode(decoder, PHOTO))


def test_an_ordinary_image_does_not_wait_for_large_ones() -> None:
    """Nor does a large one of another client wait for all of them."""
    order: list[str] = []
    all_wait = threading.Event()

    def large_work(*, large: Gate) -> None:
        with large(49_000_000):
            assert all_wait.wait(30)
            order.append("large")

    async def image(client: str, work: ImageWork[None], decoder: Decoder) -> None:
        CALLER.set(Caller(client, 1))
        await decoder.run_image(work, deadline_seconds=30)

    def small_work(*, large: Gate) -> None:
        order.append("small")

    def other_work(*, large: Gate) -> None:
        with large(30_000_000):
            order.append("other")

    async def crowd() -> None:
        decoder = Decoder(2, max_pixels=50_000_000)
        many = [asyncio.create_task(image("a", large_work, decoder)) for _ in range(12)]
        await asyncio.sleep(0.05)
        other = asyncio.create_task(image("b", other_work, decoder))
        await image("a", small_work, decoder)
        await asyncio.sleep(0.05)
        all_wait.set()
        await asyncio.gather(other, *many)

    asyncio.run(crowd())
    assert order.index("small") == 0
    assert order.index("other") <= 2


def test_an_ordinary_image_does_not_wait_for_isolated_ones() -> None:
    """160 kB of AVIF keep a thread busy for as long as its process may take, whatever its size."""
    ended: list[str] = []
    may_end = threading.Event()

    def isolated_work(*, large: Gate) -> None:
        with large(64 * 64):
            assert may_end.wait(30)
            ended.append("isolated")

    def ordinary_work(*, large: Gate) -> None:
        ended.append("ordinary")

    async def crowd() -> None:
        decoder = Decoder(2, max_pixels=50_000_000)
        many = [decoder.run_image(isolated_work, deadline_seconds=30) for _ in range(6)]
        tasks = [asyncio.create_task(one) for one in many]
        await asyncio.sleep(0.05)
        await decoder.run_image(ordinary_work, deadline_seconds=30)
        assert ended == ["ordinary"]
        may_end.set()
        await asyncio.gather(*tasks)
        decoder.close()

    asyncio.run(crowd())


def test_decoding_and_drawing_share_one_budget_of_pixels() -> None:
    running: list[int] = []
    most: list[int] = []

    def work(*, large: Gate = at_once) -> None:
        with large(30_000_000):
            running.append(1)
            most.append(len(running))
            time.sleep(0.02)
            running.pop()

    async def both() -> None:
        budget = PixelBudget(50_000_000)
        decoder = Decoder(4, max_pixels=50_000_000, budget=budget)
        renderer = Decoder(1, max_pixels=50_000_000, budget=budget)
        await asyncio.gather(
            *(decoder.run_image(work, deadline_seconds=30) for _ in range(6)),
            *(renderer.run(work, deadline_seconds=30, pixels=30_000_000) for _ in range(6)),
        )

    asyncio.run(both())
    assert (max(most), len(most)) == (1, 12)
