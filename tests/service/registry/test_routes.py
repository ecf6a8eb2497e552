import httpx


def test_models_are_listed_by_page(client: httpx.Client) -> None:
    everything = client.get("/v1/models").json()
    names = [model["name"] for model in everything["items"]]
    assert names == ["efficientnet_lite0", "squeezenet", "vgg16", "face_embedder"]
    assert everything["next_cursor"] is None
    first = client.get("/v1/models?limit=2").json()
    rest = client.get("/v1/models", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert first["items"] + rest["items"] == everything["items"]
    assert rest["next_cursor"] is None


def test_a_foreign_cursor_is_refused(client: httpx.Client) -> None:
    assert client.get("/v1/models?cursor=x").json()["code"] == "validation_error"


def test_one_model(client: httpx.Client) -> None:
    model = client.get("/v1/models/squeezenet").json()
    assert (model["state"], model["input_size"]) == ("ready", [227, 227])
    missing = client.get("/v1/models/squeezent")
    assert missing.status_code == 404
    assert "squeezenet" in missing.json()["detail"]
