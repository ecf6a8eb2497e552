"""A real Chromium records a face with MediaRecorder, and enrolls and logs in through the API.

Its camera is a file in which a puppet performs the actions of the challenge. The page has another
origin than the API, as that of an app.
"""

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from typing import Any
from urllib.parse import quote

import cv2
import httpx
import pytest

from contracts.faces.faces import FACE_MODEL
from contracts.faces.liveness import Action
from tests.flow.conftest import Start
from tests.flow.installation import READY_SECONDS, Installation
from tests.flow.test_face_clips import URL, get_challenge, wait_for_job
from tests.models.faces.rendering import Puppet, performance

pytestmark = [pytest.mark.shared, pytest.mark.slow]

PAGE = Path(__file__).with_name("record.html").read_bytes()
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
FPS = 12
_ANSWER_SECONDS = 150


class Browser:
    """A page on its own origin, and a Chromium that opens it."""

    def __init__(self, program: str, folder: Path) -> None:
        self._program = program
        self._folder = folder
        self._reports: Queue[dict[str, Any]] = Queue()
        reports = self._reports

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(PAGE)

            def do_POST(self) -> None:
                reports.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self._answer(b"")

            def _answer(self, body: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Not needed."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.origin = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def send(self, camera: Path, url: str, **wish: object) -> dict[str, Any]:
        """Record the camera, send the recording as a form, and return the API's answer."""
        options = [
            "--headless=new",
            "--no-sandbox",  # tests may run as root
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--use-fake-ui-for-media-stream",
            "--use-fake-device-for-media-stream",
            f"--use-file-for-fake-video-capture={camera}",
            f"--user-data-dir={self._folder / camera.stem}",
        ]
        page = f"{self.origin}/?wish={quote(json.dumps(wish | {'url': url}))}"
        process = subprocess.Popen(
            [self._program, *options, page], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            return self._reports.get(timeout=_ANSWER_SECONDS)
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip("Chromium is not installed; on Debian: apt-get install chromium")
    browser = Browser(program, tmp_path)
    yield browser
    browser.close()


@pytest.fixture
def running(start: Start, fetched: Path, browser: Browser) -> Installation:
    """An installation that serves faces, and that the page may call."""
    if not (fetched / "weights/face_landmark.tflite").is_file():
        pytest.skip("the face weights are missing; run `make setup`")
    running = start(OPSIN_MODELS=FACE_MODEL, OPSIN_CORS_ORIGINS=browser.origin)
    running.run("jobs", "worker --jobs")
    running.wait_until(running.is_settled, READY_SECONDS)
    return running


def test_a_browser_records_enrolls_and_logs_in(
    running: Installation, puppets: list[Puppet], browser: Browser, tmp_path: Path
) -> None:
    me = puppets[0]
    with httpx.Client(base_url=running.url, timeout=60) as client:
        ada: str = client.post(f"{URL}/subjects", json={"name": "Ada"}).json()["id"]
        camera, wish = film(me, ("turn_left", "turn_right"), 1, tmp_path)
        where = f"{running.url}{URL}/subjects/{ada}/enrollments"
        answer = browser.send(camera, where, fields={}, **wish)
        assert answer.get("status") == 202, answer
        assert answer["type"].startswith("video/"), answer
        job = wait_for_job(client, answer["body"]["id"])
        assert job["state"] == "succeeded", job
        assert job["result"]["templates_added"] >= 1

        challenge = get_challenge(client, ada)
        camera, wish = film(me, challenge["actions"], 2, tmp_path)
        fields = {"subject_id": ada, "challenge_id": challenge["id"], "nonce": challenge["nonce"]}
        answer = browser.send(camera, f"{running.url}{URL}/login", fields=fields, **wish)
        assert answer.get("status") == 200, answer
        assert answer["body"]["decision"] == "match", answer
        assert answer["body"]["token"]


def film(
    puppet: Puppet, actions: Sequence[Action], seed: int, folder: Path
) -> tuple[Path, dict[str, object]]:
    """What the camera shows, uncompressed as Chromium wants it, and what it has to record."""
    path, count = folder / f"camera{seed}.y4m", 0
    with path.open("wb") as file:
        for count, frame in enumerate(performance(puppet, actions, fps=FPS, seed=seed), 1):
            height, width = (side - side % 2 for side in frame.shape[:2])
            if count == 1:
                file.write(b"YUV4MPEG2 W%d H%d F%d:1 Ip A1:1 C420\n" % (width, height, FPS))
            even = frame[:height, :width]
            file.write(b"FRAME\n" + cv2.cvtColor(even, cv2.COLOR_RGB2YUV_I420).tobytes())
    return path, {"width": width, "height": height, "seconds": count / FPS}
