import pytest

from service.http.headers import preferred_type


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "image/png"),
        ("*/*", "image/png"),
        ("image/*", "image/png"),
        ("application/json", "application/json"),
        ("Application/JSON; charset=utf-8", "application/json"),
        ("application/json, text/plain, */*", "application/json"),
        ("image/png;q=0.4, application/json;q=0.5", "application/json"),
        ("application/json;q=0.5, image/png", "image/png"),
        ("application/json, image/png", "image/png"),
        ("application/json;q=0, */*", "image/png"),
        ("image/png;q=0, */*", "application/json"),
        ("image/jpeg", "image/png"),
        ("application/json;q=lots, image/png;q=0.1", "image/png"),
        ("image/png;q=nan, application/json", "application/json"),
    ],
)
def test_the_preferred_type(accept: str, kind: str) -> None:
    assert preferred_type(accept) == kind
