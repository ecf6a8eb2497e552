import base64
import unicodedata

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.http.uploads import IMAGE_TYPES, display_name
from tests.service.parts import gray_png

URL = "/v1/classify"


@pytest.mark.parametrize(
    "kind",
    [
        *(*IMAGE_TYPES, "image/PNG; charset=utf-8", "Image/Jpeg;", "image/jpg", "image/pjpeg"),
        *("image/x-png", "image/heic", "image/*", "application/octet-stream", "*/*", ""),
        *("binary/octet-stream", "application/x-www-form-urlencoded", "image/svg+xml"),
        *("application/force-download", "application/x-download", "application/unknown"),
    ],
)
def test_image_types_are_accepted(steady: httpx.Client, kind: str) -> None:
    answer = steady.post(URL, content=gray_png(), headers={"Content-Type": kind} if kind else {})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "kind",
    ["application/json", "application/ld+json", "text/plain", "video/mp4", "nonsense", "text/html"],
)
def test_another_type_is_refused_with_the_accepted_ones(steady: httpx.Client, kind: str) -> None:
    answer = steady.post(URL, content=gray_png(), headers={"Content-Type": kind} if kind else {})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
    assert "--data-binary" in answer.json()["detail"]


BASE64 = base64.b64encode(gray_png())


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"data:image/png;base64," + BASE64, "data URL"),
        (BASE64, "base64"),
        (b'"' + BASE64 + b'"', "base64"),
        (b'{"image": "' + BASE64 + b'"}', "text"),
        (b"image=" + BASE64, "text"),
    ],
)
@pytest.mark.parametrize("form", [False, True])
def test_an_image_as_text_is_told_so(
    steady: httpx.Client, data: bytes, word: str, form: bool
) -> None:
    if form:
        answer = steady.post(URL, files={"image": ("a.png", data, "image/png")})
    else:
        answer = steady.post(URL, content=data)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_image")
    assert word in answer.json()["detail"]
    assert "curl -F" in answer.json()["detail"]


@pytest.mark.parametrize("form", [False, True])
def test_an_empty_image_is_refused(client: httpx.Client, form: bool) -> None:
    if form:
        answer = client.post(URL, files={"image": ("a.png", b"", "image/png")})
    else:
        answer = client.post(URL, content=b"", headers={"Content-Type": "image/png"})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_image")


@pytest.mark.parametrize("way", ["declared", "chunked", "form"])
def test_a_single_image_over_the_limit_is_refused(client: httpx.Client, way: str) -> None:
    data = bytes(20_001)
    if way == "form":
        answer = client.post(URL, files={"image": ("a.png", data, "image/png")})
    else:
        content = data if way == "declared" else iter([data[:20_000], data[20_000:]])
        answer = client.post(URL, content=content, headers={"Content-Type": "image/png"})
    assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")
    assert "20000" in answer.json()["detail"]


def test_too_many_images_are_refused(client: httpx.Client) -> None:
    answer = client.post(URL, files=[("image", ("a", gray_png(), "image/png"))] * 5)
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_error")
    assert "4 times" in answer.json()["detail"]


def test_an_unknown_field_is_named(client: httpx.Client) -> None:
    answer = client.post(URL, files={"image": ("a", gray_png())}, data={"modle": "vgg16"})
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_error")
    assert "'modle'" in answer.json()["detail"]
    assert "query" in answer.json()["detail"]


def test_a_field_without_a_file_name_is_an_image_too(client: httpx.Client) -> None:
    body = (
        b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\n%s\r\n--b--\r\n' % gray_png()
    )
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    assert client.post(URL, content=body, headers=headers).status_code == 200


PART = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\nx\r\n'


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (PART, "multipart/form-data"),
        (PART, "multipart/form-data; boundary="),
        (PART, "multipart/form-data; boundary=" + "b" * 1000),
        (PART, "multipart/form-data; boundary=b"),
        (PART[:20], "multipart/form-data; boundary=b"),
        (b"", "multipart/form-data; boundary=b"),
        (b"nothing of the kind", "multipart/form-data; boundary=b"),
        (b"--b\r\nContent-Type: x\r\n\r\nx\r\n--b--\r\n", "multipart/form-data; boundary=b"),
        (b"--b\r\n" + b"A: b\r\n" * 100 + b"\r\nx\r\n--b--\r\n", "multipart/form-data; boundary=b"),
    ],
    ids=[
        "no boundary",
        "empty boundary",
        "endless boundary",
        "no end",
        "cut",
        "empty",
        "prose",
        "nameless",
        "headers",
    ],
)
def test_a_malformed_form_is_refused(steady: httpx.Client, body: bytes, kind: str) -> None:
    answer = steady.post(URL, content=body, headers={"Content-Type": kind})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")


def test_an_empty_form_is_refused(client: httpx.Client) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = client.post(URL, content=b"--b--\r\n", headers=headers)
    assert answer.status_code in {400, 422}


def test_a_form_in_tiny_chunks_is_read(client: httpx.Client) -> None:
    body = PART[:-3] + gray_png() + b"\r\n--b--\r\n"
    chunks = (body[i : i + 3] for i in range(0, len(body), 3))
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = client.post(URL, content=chunks, headers=headers)
    assert answer.json()["results"][0]["predictions"][0]["index"] == 100


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("cat.png", "cat.png"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\cat.png", "cat.png"),
        ("katze\u0000\n.png", "katze.png"),
        ("\u732b.png", "\u732b.png"),
        ("", None),
        ("/", None),
        (None, None),
    ],
)
def test_a_name_is_displayed_without_its_folder(sent: str | None, shown: str | None) -> None:
    assert display_name(sent) == shown


@given(st.text(max_size=600))
def test_a_displayed_name_is_short_and_printable(sent: str) -> None:
    shown = display_name(sent)
    assert shown is None or (0 < len(shown) <= 255 and "/" not in shown)
    assert all(c.isprintable() or unicodedata.category(c) in {"Zs", "Cf"} for c in shown or "")
