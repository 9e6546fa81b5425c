"""Image files at their addresses, and photos on their way in."""

from __future__ import annotations

import io
from collections.abc import AsyncGenerator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from routing.image_store import ImageStore, image_id
from tests.serving import serving

IMAGES = "/api/v1/images"
UPLOADS = "/api/v1/uploads"


@pytest.fixture
async def client(tmp_path: Path) -> AsyncGenerator[httpx.AsyncClient, None]:
    async with serving(tmp_path) as client:
        yield client


def photo(kind: str = "PNG", colour: str = "#336699") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (80, 64), colour).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(("kind", "media_type"), [("PNG", "image/png"), ("JPEG", "image/jpeg"), ("WEBP", "image/webp")])
async def test_a_photo_is_stored_and_shown_again(client: httpx.AsyncClient, kind: str, media_type: str) -> None:
    content = photo(kind)
    sent = await client.post(UPLOADS, files={"file": ("사진", content)})
    assert sent.status_code == 201
    assert sent.json() == {"photo": image_id(content), "url": f"{IMAGES}/{image_id(content)}"}
    assert sent.headers["location"] == sent.json()["url"]
    shown = await client.get(sent.json()["url"])
    assert shown.status_code == 200
    assert shown.content == content
    assert shown.headers["content-type"] == media_type
    assert shown.headers["x-content-type-options"] == "nosniff"
    assert shown.headers["cache-control"] == "private, max-age=31536000, immutable"
    assert shown.headers["etag"] == f'"{image_id(content)}"'


async def test_head_tells_what_get_would(client: httpx.AsyncClient) -> None:
    url = (await client.post(UPLOADS, files={"file": photo()})).json()["url"]
    got, told = await client.get(url), await client.head(url)
    assert told.status_code == 200
    assert told.content == b""
    for name in ("etag", "cache-control", "content-type", "content-length"):
        assert told.headers[name] == got.headers[name]


@pytest.mark.parametrize("form", ['"{id}"', 'W/"{id}"', '"other", "{id}"', "*"])
async def test_who_has_it_is_not_sent_it_again(client: httpx.AsyncClient, form: str) -> None:
    sent = (await client.post(UPLOADS, files={"file": photo()})).json()
    known = await client.get(sent["url"], headers={"If-None-Match": form.format(id=sent["photo"])})
    assert known.status_code == 304
    assert known.content == b""
    assert known.headers["etag"] == f'"{sent["photo"]}"'
    other = await client.get(sent["url"], headers={"If-None-Match": '"other"'})
    assert (other.status_code, other.content) == (200, photo())


@pytest.mark.parametrize("name", ["0" * 32, "x", "..%2F..%2Frun.json", "%00", "A" * 32, "0" * 32 + "%0A"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_what_is_no_image_of_ours_is_not_found(client: httpx.AsyncClient, name: str, method: str) -> None:
    response = await client.request(method, f"{IMAGES}/{name}", headers={"If-None-Match": "*"})
    assert response.status_code == 404
    if method == "GET":
        assert response.json()["error"]["message"]


async def test_no_path_of_the_server_is_told_of_an_image_that_is_gone(
    client: httpx.AsyncClient, tmp_path: Path
) -> None:
    sent = (await client.post(UPLOADS, files={"file": photo()})).json()
    ImageStore(tmp_path / "images").path(sent["photo"]).unlink()
    response = await client.get(sent["url"])
    assert response.status_code == 404
    assert str(tmp_path) not in response.text


async def test_a_photo_loses_what_the_camera_wrote(client: httpx.AsyncClient) -> None:
    exif = Image.Exif()
    exif[0x010F] = "Camera of somebody"
    file = io.BytesIO()
    Image.new("RGB", (80, 64), "#112233").save(file, "JPEG", exif=exif)
    url = (await client.post(UPLOADS, files={"file": file.getvalue()})).json()["url"]
    assert b"Camera of somebody" not in (await client.get(url)).content


async def test_the_same_photo_is_one(client: httpx.AsyncClient, tmp_path: Path) -> None:
    first, again = [(await client.post(UPLOADS, files={"file": photo()})).json() for _ in range(2)]
    assert first == again
    assert len(list((tmp_path / "images").glob("*.png"))) == 1


async def test_a_key_belongs_to_one_photo(client: httpx.AsyncClient) -> None:
    key = {"Idempotency-Key": "photo 1"}
    first, again = [await client.post(UPLOADS, files={"file": photo()}, headers=key) for _ in range(2)]
    assert first.json() == again.json()
    assert again.status_code == 201
    assert again.headers["idempotency-replayed"] == "true"
    other = await client.post(UPLOADS, files={"file": photo(colour="#000000")}, headers=key)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "conflict")


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"%PDF-1.7", photo()[:90], b"<svg/>"])
async def test_what_is_no_photo_is_refused(client: httpx.AsyncClient, content: bytes, tmp_path: Path) -> None:
    response = await client.post(UPLOADS, files={"file": ("photo.png", content, "image/png")})
    assert response.status_code == 422
    assert response.json()["error"]["code"] == "bad_input"
    assert response.json()["error"]["hint"]
    assert not list(tmp_path.glob("images/*"))


async def test_a_form_without_a_file_is_refused(client: httpx.AsyncClient) -> None:
    for response in (
        await client.post(UPLOADS, data={"file": "words"}),
        await client.post(UPLOADS, files={"other": photo()}),
        await client.post(UPLOADS, json={"file": "words"}),
        await client.post(UPLOADS),
    ):
        assert response.status_code in {400, 422}
        assert response.json()["error"]["message"]
