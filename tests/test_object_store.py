"""Images and pages that several machines share: a folder, or an S3-compatible store with its faults."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from providers.errors import ConfigError, StorageError, UnknownNameError
from routing.contracts import ImageRequest
from routing.gateways import build_gateways
from routing.image_store import ImageStore, PageStore, image_store, page_store
from routing.object_store import Found, ObjectStore
from routing.settings import Settings, load_settings
from tests.conftest import BRAND, PRODUCT
from tests.standins.s3 import BUCKET, KEY_ID, SECRET, Fault, S3StandIn

URL = f"s3://{BUCKET}/team/a"
PASSING = [Fault.STATUS_500, Fault.STATUS_503, Fault.CUT, Fault.CUT_LATE]
NAME = "SPARKLIO_ARTIFACTS_URL"


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3StandIn]:
    for name in [name for name in os.environ if name.upper().startswith("AWS_") or name.upper().endswith("_PROXY")]:
        monkeypatch.delenv(name)
    with S3StandIn() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("routing.object_store._PATIENCE_S", 0.3)


def settings_of(home: Path, url: str | None = URL) -> Settings:
    return load_settings({"SPARKLIO_HOME": str(home), NAME: url})


# objects


def test_what_is_put_is_got_and_listed_and_deleted(s3: S3StandIn) -> None:
    store = ObjectStore(URL)
    s3.page_size = 2
    names = [f"images/{number}.png" for number in range(5)]
    for name in names:
        store.put(name, name.encode())
    store.put("pages/0.html", b"")
    s3.objects["team/b/images/9.png"] = b"another's"
    s3.modified["team/a/images/3.png"] = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert [store.get(name) for name in names] == [name.encode() for name in names]
    assert store.get("pages/0.html") == b""
    assert store.get("images/9.png") is None
    found = sorted(store.found("images"), key=lambda one: one.name)
    assert [one.name for one in found] == names
    assert found[3] == Found("images/3.png", len(names[3]), s3.modified["team/a/images/3.png"])
    for name in (names[0], names[1], "images/9.png"):
        store.delete(name)
    left = [*names[2:], "pages/0.html"]
    assert sorted(s3.objects) == [*(f"team/a/{name}" for name in left), "team/b/images/9.png"]


@pytest.mark.parametrize("fault", PASSING)
def test_what_fails_for_a_moment_is_tried_again(s3: S3StandIn, fault: Fault) -> None:
    store, content = ObjectStore(URL), bytes(range(256)) * 4000
    s3.fail(fault, fault)
    store.put("images/a.png", content)
    assert s3.objects == {"team/a/images/a.png": content}
    s3.fail(fault, fault)
    assert store.get("images/a.png") == content
    s3.fail(fault, fault)
    assert [one.name for one in store.found("images")] == ["images/a.png"]
    s3.fail(fault)
    store.delete("images/a.png")
    assert s3.objects == {}


DEEDS: list[Callable[[ObjectStore], object]] = [
    lambda store: store.put("images/a.png", b"new"),
    lambda store: store.get("images/a.png"),
    lambda store: list(store.found("images")),
    lambda store: store.delete("images/a.png"),
]


@pytest.mark.parametrize("deed", DEEDS, ids=["put", "get", "list", "delete"])
@pytest.mark.parametrize(
    ("fault", "says", "hint"),
    [
        (Fault.STATUS_503, "it answered 503 Service Unavailable", "is up"),
        (Fault.STATUS_403, "it answered 403 Forbidden", "AWS_ACCESS_KEY_ID"),
        (Fault.CUT, "no connection, or it broke", "AWS_ENDPOINT_URL"),
    ],
)
@pytest.mark.usefixtures("impatient")
def test_what_goes_on_failing_says_why_and_tells_no_key(
    s3: S3StandIn, deed: Callable[[ObjectStore], object], fault: Fault, says: str, hint: str
) -> None:
    store = ObjectStore(URL)
    s3.objects["team/a/images/a.png"] = b"12"
    s3.always = fault
    with pytest.raises(StorageError, match=says) as caught:
        deed(store)
    assert URL in caught.value.message
    assert hint in caught.value.hint
    told = "".join(traceback.format_exception(caught.value)) + caught.value.hint
    assert not [word for word in (KEY_ID, SECRET, "Credential", "Signature") if word in told]
    s3.always = Fault.NONE
    deed(store)


@pytest.mark.usefixtures("impatient")
def test_a_store_that_is_away_and_comes_back(s3: S3StandIn) -> None:
    store = ObjectStore(URL)
    s3.leave()
    with pytest.raises(StorageError, match="no connection"):
        store.put("images/a.png", b"1")
    s3.come_back()
    store.put("images/a.png", b"1")
    assert store.get("images/a.png") == b"1"


def test_a_bucket_that_is_not_there_says_so(s3: S3StandIn) -> None:
    with pytest.raises(StorageError, match="no such bucket") as caught:
        ObjectStore("s3://elsewhere/x").put("images/a.png", b"1")
    assert NAME in caught.value.hint
    assert s3.objects == {}


def test_an_object_without_end_is_not_read(s3: S3StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("routing.object_store._LARGEST", 10)
    store = ObjectStore(URL)
    store.put("images/a.png", b"0123456789")
    store.put("images/b.png", b"0123456789+")
    assert store.get("images/a.png") == b"0123456789"
    with pytest.raises(StorageError, match="larger"):
        store.get("images/b.png")


FORKS = f"""
import os, sys
from providers.errors import StorageError
from routing.object_store import ObjectStore
store = ObjectStore({URL!r})
if sys.argv[1] == "used":
    store.put("images/a.png", b"1")
child = os.fork()
if child == 0:
    try:
        store.put("images/b.png", b"2")
        os._exit(0)
    except StorageError as exc:
        os._exit(3 if "forked" in exc.message else 4)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.parametrize(("before", "code", "made"), [("fresh", 0, {"b"}), ("used", 3, {"a"})])
def test_a_forked_process_works_or_says_why_not(s3: S3StandIn, before: str, code: int, made: set[str]) -> None:
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    ended = subprocess.run([sys.executable, "-c", FORKS, before], env=environ, check=False)
    assert ended.returncode == code
    assert {Path(key).stem for key in s3.objects} == made


# the URL


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("https://host/bucket", "unknown kind"),
        ("memory:///", "unknown kind"),
        ("s3://", "cannot be used"),
        ("s3://user:secret-word@", "cannot be used"),
        ("az://container/x", "cannot be used"),
    ],
)
def test_a_url_that_cannot_be_used_says_so(url: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AZURE_")]:
        monkeypatch.delenv(name)
    with pytest.raises(ConfigError, match=says) as caught:
        ObjectStore(url)
    assert NAME in caught.value.message
    assert "secret-word" not in "".join(traceback.format_exception(caught.value))


def test_credentials_in_a_url_are_not_told(s3: S3StandIn, impatient: None) -> None:
    store = ObjectStore(URL.replace("://", "://user:secret-word@"))
    s3.always = Fault.STATUS_500
    with pytest.raises(StorageError) as caught:
        store.put("images/a.png", b"1")
    assert store.place == URL
    assert "secret-word" not in "".join(traceback.format_exception(caught.value))


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "obstore"]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("obstore", "obstore.exceptions", "obstore.store"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError) as caught:
        build_gateways(settings_of(tmp_path))
    assert "sparklio[distributed]" in caught.value.hint
    build_gateways(settings_of(tmp_path, tmp_path.as_uri()))


def test_who_has_no_store_imports_none(tmp_path: Path) -> None:
    program = (
        "import sys, sparklio\n"
        f"sparklio.run(brand={BRAND!r}, product={PRODUCT!r}, mode='mock')\n"
        "assert not [name for name in sys.modules if name.partition('.')[0] == 'obstore']"
    )
    root = Path(__file__).resolve().parent.parent
    environ = {**os.environ, "PYTHONPATH": str(root), "SPARKLIO_HOME": str(tmp_path / "home")}
    subprocess.run([sys.executable, "-c", program], env=environ, check=True)


@pytest.mark.parametrize("url", ["file://shared/x", "file://"])
def test_a_folder_that_is_none_of_this_machine_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no folder of this machine") as caught:
        image_store(settings_of(tmp_path, url))
    assert "file:///" in caught.value.hint


# the stores


def test_without_a_url_everything_is_in_the_data_folder(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "home", None)
    images, pages = image_store(settings), page_store(settings)
    assert (images.folder, images.far) == (tmp_path / "home" / "images", None)
    assert (pages.folder, pages.far) == (tmp_path / "home" / "pages", None)


def test_a_folder_that_machines_share_is_the_store_itself(tmp_path: Path) -> None:
    url = (tmp_path / "공유 폴더").as_uri()
    a, b = settings_of(tmp_path / "a", url), settings_of(tmp_path / "b", url)
    image, page = image_store(a).save(b"picture"), page_store(a).save(b"page")
    assert image_store(b).path(image) == tmp_path / "공유 폴더" / "images" / f"{image}.png"
    assert page_store(b).read(page) == b"page"
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("media_type", "suffix"), [("image/png", ".png"), ("image/jpeg", ".jpg"), ("image/webp", ".webp")]
)
def test_what_one_machine_saves_another_one_has(s3: S3StandIn, tmp_path: Path, media_type: str, suffix: str) -> None:
    a, b = image_store(settings_of(tmp_path / "a")), image_store(settings_of(tmp_path / "b"))
    name = a.save(b"picture", media_type)
    assert s3.objects == {f"team/a/images/{name}{suffix}": b"picture"}
    assert b.files() == {}
    assert b.read(name) == (b"picture", media_type)
    assert b.path(name) == tmp_path / "b" / "images" / f"{name}{suffix}"
    assert b.url(name) == b.path(name).as_uri()
    asked = len(s3.calls)
    assert a.read(name) == b.read(name) == (b"picture", media_type)
    assert len(s3.calls) == asked, "what is here is not asked for"


def test_pages_lie_beside_images(s3: S3StandIn, tmp_path: Path) -> None:
    a, b = image_store(settings_of(tmp_path / "a")), page_store(settings_of(tmp_path / "b"))
    name = PageStore.of(a).save(b"<html></html>")
    assert s3.objects == {f"team/a/pages/{name}.html": b"<html></html>"}
    assert b.read(name) == b"<html></html>"
    assert b.path(name) == tmp_path / "b" / "pages" / f"{name}.html"


def test_what_nobody_has_is_unknown_and_what_is_no_id_is_not_asked_for(s3: S3StandIn, tmp_path: Path) -> None:
    store = image_store(settings_of(tmp_path))
    with pytest.raises(UnknownNameError):
        store.read("0" * 32)
    assert s3.count("GET") == 3
    with pytest.raises(UnknownNameError):
        store.read("../pages/x")
    assert s3.count("GET") == 3
    assert not store.folder.exists()


def test_a_damaged_object_is_never_served_and_saving_again_mends_it(s3: S3StandIn, tmp_path: Path) -> None:
    a, b = image_store(settings_of(tmp_path / "a")), image_store(settings_of(tmp_path / "b"))
    name = a.save(b"picture")
    s3.fail(Fault.WRONG_BODY)
    with pytest.raises(StorageError, match="is damaged"):
        b.path(name)
    assert not b.folder.exists()
    s3.objects[f"team/a/images/{name}.png"] = b"pictur"
    with pytest.raises(StorageError, match="is damaged") as caught:
        b.read(name)
    assert "remove that object" in caught.value.hint
    assert a.save(b"picture") == name
    assert b.read(name)[0] == b"picture"


@pytest.mark.usefixtures("impatient")
def test_what_could_not_be_shared_is_shared_by_the_next_try(s3: S3StandIn, tmp_path: Path) -> None:
    a, b = image_store(settings_of(tmp_path / "a")), image_store(settings_of(tmp_path / "b"))
    s3.always = Fault.STATUS_500
    with pytest.raises(StorageError, match="500"):
        a.save(b"picture")
    assert s3.objects == {}
    s3.always = Fault.NONE
    name = a.save(b"picture")
    assert b.read(name)[0] == b"picture"


@pytest.mark.usefixtures("impatient")
def test_a_store_that_is_away_is_no_unknown_image(s3: S3StandIn, tmp_path: Path) -> None:
    name = image_store(settings_of(tmp_path / "a")).save(b"picture")
    b = image_store(settings_of(tmp_path / "b"))
    s3.leave()
    with pytest.raises(StorageError, match="no connection"):
        b.path(name)
    s3.come_back()
    assert b.path(name).read_bytes() == b"picture"


def test_the_disk_does_not_fill_with_what_lies_there_too(
    s3: S3StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("routing.object_store._COPIES", 2)
    settings = settings_of(tmp_path)
    before = ImageStore(settings.images).save(b"from before there was a far side")
    store = image_store(settings)
    first, second, third = (store.save(content) for content in (b"1", b"2", b"3"))
    assert len(store.files()) == 4, "each may be in use yet"
    monkeypatch.setattr("routing.object_store._IN_USE_S", -1.0)
    store.path(first)
    fourth = store.save(b"4")
    assert set(store.files()) == {before, first, fourth}
    assert {store.read(name)[0] for name in (first, second, third, fourth)} == {b"1", b"2", b"3", b"4"}
    assert set(store.files()) == {before, third, fourth}
    page = PageStore.of(store).save(b"page")
    assert set(store.files()) == {before, fourth}
    assert PageStore.of(store).path(page).is_file()
    assert len(s3.objects) == 5


async def test_the_gateways_images_are_shared(s3: S3StandIn, tmp_path: Path) -> None:
    gateways = build_gateways(settings_of(tmp_path / "a"))
    answer = await gateways.media.generate_image(ImageRequest(kind="hero", prompt="잔"))
    await gateways.aclose()
    name = answer.images[0].id
    assert list(s3.objects) == [f"team/a/images/{name}.png"]
    there = ImageStore(tmp_path / "b", ObjectStore(URL))
    assert there.read(name)[0] == (tmp_path / "a" / "images" / f"{name}.png").read_bytes()
