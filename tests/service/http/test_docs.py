import re

import httpx


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
