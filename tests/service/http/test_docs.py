import os
import re
from collections.abc import Callable

import httpx
import pytest


def test_the_page_loads_nothing_from_elsewhere(client: httpx.Client) -> None:
    page = client.get("/docs")
    assert page.status_code == 200
    links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(links) == 4
    for link in links:
        if not link.startswith("data:"):
            asset = client.get(link)
            assert asset.status_code == 200, link
            assert asset.headers["Content-Type"].startswith(("text/css", "text/javascript"))
    assert "<script>" not in page.text
    assert "'unsafe-inline'" not in page.headers["Content-Security-Policy"].split("style-src")[0]


def test_several_ranges_of_an_asset_are_ignored(client: httpx.Client) -> None:
    link = "/docs/assets/swagger-ui.css"
    ranges = {"Range": "bytes=" + ",".join(f"{2 * n}-{2 * n}" for n in range(90))}
    whole = client.get(link, headers=ranges)
    assert (whole.status_code, whole.content) == (200, client.get(link).content)
    assert client.get(link, headers={"Range": "bytes=0-3"}).status_code == 206


def test_an_asset_that_the_client_has_is_not_sent_again(client: httpx.Client) -> None:
    link = "/docs/assets/swagger-ui-bundle.js"
    first = client.get(link)
    assert int(first.headers["Content-Length"]) == len(first.content)
    etag = first.headers["ETag"]
    again = client.get(link, headers={"If-None-Match": etag})
    assert (again.status_code, again.content) == (304, b"")
    rest = client.get(link, headers={"Range": "bytes=100000-", "If-Range": etag})
    assert (rest.status_code, rest.content) == (206, first.content[100_000:])
    head = client.head(link)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("ETag", "Content-Length", "Content-Type"):
        assert head.headers[name] == first.headers[name]


@pytest.mark.parametrize("path", ["a/" * 1000, "a/b", "none.js", "..%2f__init__.py", "%00"])
def test_a_path_of_no_asset_is_not_looked_for(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """On the disk, one of many folders took 0.1 s of a thread."""
    looked: list[object] = []
    for name in ("lstat", "stat"):
        monkeypatch.setattr(os, name, _counted(getattr(os, name), looked))
    assert client.get(f"/docs/assets/{path}").status_code == 404
    assert not [seen for seen in looked if "fastapi_offline" in str(seen)]


def _counted(
    function: Callable[..., os.stat_result], looked: list[object]
) -> Callable[..., os.stat_result]:
    def count(path: object, *arguments: object, **options: object) -> os.stat_result:
        looked.append(path)
        return function(path, *arguments, **options)

    return count
