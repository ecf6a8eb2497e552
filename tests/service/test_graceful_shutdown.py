"""The shutdown of an API process loses no request."""

import signal
import threading
import time

import httpx

from tests.service.test_server import start


def test_connected_clients_receive_connection_close_and_lose_no_request() -> None:
    process, url = start(delay=0, seconds=30)  # a client may be slow on a busy machine
    told: list[str] = []
    faults: list[str] = []
    connected = threading.Barrier(9)

    def ask_on() -> None:
        """Send on one connection until it is to be closed; POST, which must not be repeated."""
        with httpx.Client(timeout=60) as client:
            client.get(url + "/healthz")
            connected.wait(60)
            until = time.monotonic() + 60
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
            client.join(120)
        log = process.communicate(timeout=60)[1]
    finally:
        if process.poll() is None:
            process.kill()
    assert faults == []
    assert told == ["close"] * 8
    assert "Traceback" not in log


def test_a_silent_client_does_not_delay_the_shutdown() -> None:
    process, url = start(delay=0)
    try:
        with httpx.Client() as idle:
            idle.get(url + "/healthz")  # and keep the connection open
            process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            process.communicate(timeout=60)
            assert time.monotonic() - began < 30  # shutdown_seconds is 2
    finally:
        if process.poll() is None:
            process.kill()
