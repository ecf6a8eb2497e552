"""The end of an API process: told to stop, it parts from those who speak to it."""

import signal
import threading
import time

import httpx

from tests.service.test_server import start


def test_who_is_connected_is_told_to_go_elsewhere_and_nobody_is_cut_off() -> None:
    process, url = start(delay=0, seconds=30)  # on a busy machine a client may need its time
    told: list[str] = []
    faults: list[str] = []
    connected = threading.Barrier(9)

    def ask_on() -> None:
        """On one connection until told otherwise; POST, which nobody may send again."""
        with httpx.Client(timeout=10) as client:
            client.get(url + "/healthz")
            connected.wait(60)
            until = time.monotonic() + 20
            while time.monotonic() < until:
                try:
                    answer = client.post(url + "/healthz")
                except httpx.TransportError as fault:
                    faults.append(repr(fault))
                    return
                if answer.headers.get("Connection") == "close":
                    told.append("close")
                    return
                time.sleep(0.005)

    clients = [threading.Thread(target=ask_on) for _ in range(8)]
    try:
        for client in clients:
            client.start()
        connected.wait(60)
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        for client in clients:
            client.join(30)
        log = process.communicate(timeout=40)[1]
    finally:
        if process.poll() is None:
            process.kill()
    assert faults == []
    assert told == ["close"] * 8
    assert "Traceback" not in log


def test_a_client_that_says_nothing_holds_nobody_up() -> None:
    process, url = start(delay=0)
    try:
        with httpx.Client() as idle:
            idle.get(url + "/healthz")  # and keeps the connection
            process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            process.communicate(timeout=20)
            assert time.monotonic() - began < 8  # told 2
    finally:
        if process.poll() is None:
            process.kill()
