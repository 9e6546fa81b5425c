from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from graph.inputs import RunInput, load_input
from graph.rerun import apply_changes
from providers.errors import InputError
from tests.conftest import BRAND, PRODUCT

PHOTO_ID = "0123456789abcdef" * 2
GOOD = "brand: {name: 소리결}\nproduct: {name: 에어 2, key_features: [가벼움]}\n"


def _nowhere(content: bytes, media_type: str) -> str:
    raise AssertionError("an input without a photo, or with another mistake, stores none")


def _refused(path: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        load_input(path, _nowhere)
    assert caught.value.hint
    return caught.value


def _file(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "input.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("- a\n- list\n", "must be a mapping"),
        ("", "must be a mapping"),
        ("brand: [", "not valid YAML"),
        (b"\x89PNG\r\n\x1a\n\x00\xff", "UTF-8"),
        (b"brand: \x00", "not valid YAML"),
        ("brand: {name: x}\nproduct: {key_features: [a]}", "product.name is missing"),
        (GOOD + "prodct: {}", "unknown key prodct"),
        ("brand: {name: x}\nproduct: {name: y, key_feature: [a]}", "unknown key product.key_feature"),
        ("brand: {name: x}\nproduct: {name: y, key_features: []}", "product.key_features"),
        ("brand: {name: x}\nproduct: {name: '  ', key_features: [a]}", "product.name"),
        (f"brand: {{name: x}}\nproduct: {{name: {'가' * 350_000}, key_features: [a]}}", "product.name"),
        ("x: " + "y" * 2_100_000, "larger than"),
        (GOOD + "language: fr", "language"),
        (GOOD + "image: {aspect_ratio: wide}", "image.aspect_ratio"),
        ("[" * 20_000, "not valid YAML"),
        (
            GOOD.replace("[가벼움]", f"[가벼움], facts: {{가격: {2**70}}}"),
            "product.facts.가격: must be a number of at most 64",
        ),
        (f"brand: {'9' * 5000}", "not valid YAML"),
        ('brand: {name: "x\\e]0;y"}\nproduct: {name: y, key_features: [a]}', "brand.name"),
        (GOOD + "image: {workflow: ../../x}", "image.workflow"),
        (GOOD + "brand: {name: x}", "input.yaml:3:1: not valid YAML: the key 'brand' is given twice, first in line 1"),
        ("brand:\n  name: x\n  name: y", "input.yaml:3:3: not valid YAML: the key 'name' is given twice"),
        ("brand: {name: x}\n\tproduct: {}", "input.yaml:2:1: not valid YAML: found character '\\t'"),
        ("brand:\n  name: \x07", "input.yaml:2:9: not valid YAML: unacceptable character"),
    ],
)
def test_bad_file_is_one_sentence_with_a_hint(tmp_path: Path, content: str | bytes, says: str) -> None:
    error = _refused(_file(tmp_path, content))
    assert says in error.message
    assert len(error.message) < 600


def test_no_such_file_and_a_folder(tmp_path: Path) -> None:
    assert "No such file" in _refused(tmp_path / "nowhere.yaml").message
    assert "directory" in _refused(tmp_path).message


def test_unknown_key_names_the_nearest(tmp_path: Path) -> None:
    assert "'product'" in _refused(_file(tmp_path, GOOD + "prodct: {}")).hint
    text = "brand: {name: x, industy: y}\nproduct: {name: y, key_features: [a]}"
    assert "'industry'" in _refused(_file(tmp_path, text)).hint


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        ({"product": {**PRODUCT, "facts": ["가격 39000"]}}, "product.facts: must be a mapping", "{가격: 39000}"),
        (
            {"product": {**PRODUCT, "facts": {"가격": [1]}}},
            "product.facts.가격: must be a text, a number",
            "{가격: 39000}",
        ),
        ({"product": {**PRODUCT, "facts": {"가" * 201: 1}}}, "is longer than 200 characters", "shorten"),
        ({"product": {**PRODUCT, "key_features": ["a"] * 31}}, "has more than 30 entries", "keep"),
        ({"product": {**PRODUCT, "key_features": "a, b"}}, "product.key_features: must be a list", "- entry"),
        ({"brand": {"name": "x" * 201}}, "brand.name: is longer than 200 characters", "shorten"),
        ({"brand": {"name": ""}}, "brand.name: is empty", "write"),
        ({"brand": "소리결"}, "brand: must be a mapping", "key: value"),
        ({"language": "kr"}, "language: must be 'ko' or 'en'", "write language"),
        ({"image": {"seed": "abc"}}, "image.seed: must be a whole number", "e.g. 42"),
        ({"image": {"seed": 1.5}}, "image.seed: must be a whole number", "e.g. 42"),
        ({"image": {"seed": -1}}, "image.seed: must be greater than or equal to 0", "image.seed"),
        ({"image": {"photo": "jar.jpg"}}, "unknown key image.photo", "it belongs under product:"),
        ({"photo": "jar.jpg"}, "unknown key photo", "it belongs under product:"),
        ({"name": "x"}, "unknown key name", "it belongs under brand: or product:"),
        ({"product": {**PRODUCT, "kind": "hero"}}, "unknown key product.kind", "it belongs under image:"),
        ({"brand": {**BRAND, "product": {}}}, "unknown key brand.product", "it belongs at the top, not under brand:"),
        (
            {"product": {**PRODUCT, "facts": {"가격": 2**63}}},
            "product.facts.가격: must be a number of at most 64",
            "quotes",
        ),
        ({"product": {**PRODUCT, "facts": {"가격": -(2**63) - 1}}}, "product.facts.가격: must be a number", "quotes"),
        ({"product": {**PRODUCT, "facts": {"가격": 10**400}}}, "product.facts.가격: must be a number", "quotes"),
        ({"product": {**PRODUCT, "facts": {"가격": float("nan")}}}, "가격: must be a finite number", "quotes"),
        ({"product": {**PRODUCT, "facts": {"가격": float("-inf")}}}, "가격: must be a finite number", "quotes"),
        ({"product": {**PRODUCT, "facts": {"{a}": {}}}}, "product.facts.{a}: must be a text", "{가격: 39000}"),
    ],
)
def test_a_wrong_value_is_told_in_the_file_s_own_words(change: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(InputError) as caught:
        RunInput.parse({"brand": BRAND, "product": PRODUCT, **change}, source="input.yaml")
    assert message in caught.value.message
    assert hint in caught.value.hint
    for jargon in ("Value error", "Input should", "dictionary", "[key]"):
        assert jargon not in caught.value.message + caught.value.hint


@pytest.mark.parametrize(
    ("kind", "meant"),
    [("heroo", "hero"), ("hreo", "hero"), ("thumnail", "thumbnail"), ("hero", None), ("banner", None), (None, None)],
)
def test_a_kind_that_is_likely_a_slip_is_told_and_allowed(
    caplog: pytest.LogCaptureFixture, kind: str | None, meant: str | None
) -> None:
    inputs = RunInput.parse({"brand": BRAND, "product": PRODUCT, "image": {"kind": kind}})
    assert inputs.image.kind == kind
    told = [f"image.kind {kind!r} is none of the usual kinds; did you mean {meant!r}?"] if meant else []
    assert list(inputs.warnings) == told
    assert [record.getMessage() for record in caplog.records] == [f"input: {one}" for one in told]


def test_facts_stay_what_was_written(tmp_path: Path) -> None:
    facts = "출시일: 2026-01-02, 가격: 89000, 시간: 1:30, 코드: 010, 버전: 1.10, 없는 날: 2024-13-45"
    text = f"brand: {{name: 2080}}\nproduct: {{name: 500, key_features: [30], facts: {{{facts}}}}}"
    loaded = load_input(_file(tmp_path, text), _nowhere)
    assert (loaded.brand.name, loaded.product.name, loaded.product.key_features) == ("2080", "500", ["30"])
    assert loaded.product.facts == {
        "출시일": "2026-01-02",
        "가격": 89000,
        "시간": "1:30",
        "코드": "010",
        "버전": "1.10",
        "없는 날": "2024-13-45",
    }


def test_the_greatest_numbers_stay_what_they_are() -> None:
    facts = {"max": 2**63 - 1, "min": -(2**63), "yes": True, "big": 1e308, "text": str(2**70)}
    found = RunInput.parse({"brand": BRAND, "product": {**PRODUCT, "facts": facts}}).product.facts
    assert found == facts
    assert [type(fact) for fact in found.values()] == [int, int, bool, float, str]


@pytest.mark.parametrize("number", [2**63, float("inf")])
def test_a_change_of_a_number_that_cannot_be_kept_is_refused(number: float) -> None:
    review = {"approved": True, "score": 90, "issues": [], "summary": "s", "stopped_because": "approved"}
    for changes in ({"review.revisions": number}, {"review": {"revisions": number}}):
        with pytest.raises(InputError, match=r"--set review(.revisions)?: must be a") as caught:
            apply_changes({"review": {**review, "revisions": 0}}, changes)
        assert caught.value.hint


def test_a_folded_text_is_one_line(tmp_path: Path) -> None:
    text = "brand: {name: x}\nproduct: {name: y, key_features: ['a\n\n  b']}"
    assert load_input(_file(tmp_path, text), _nowhere).product.key_features == ["a b"]


def _with_materials(tmp_path: Path, *names: str) -> Path:
    listed = ", ".join(repr(name) for name in names)
    text = f"brand: {{name: x, uploaded_materials: [{listed}]}}\nproduct: {{name: y, key_features: [a]}}"
    return _file(tmp_path, text)


def test_materials_are_read_in(tmp_path: Path) -> None:
    (tmp_path / "guide.md").write_text("말투: 담백하게")
    loaded = load_input(_with_materials(tmp_path, "guide.md"), _nowhere)
    assert loaded.to_state()["brand_input"]["uploaded_materials"] == [{"name": "guide.md", "text": "말투: 담백하게"}]


def test_materials_stay_inside_the_folder_and_are_text(tmp_path: Path) -> None:
    outside = tmp_path.parent / f"{tmp_path.name}-secret.txt"
    outside.write_text("secret")
    (tmp_path / "link.txt").symlink_to(outside)
    (tmp_path / "photo.png").write_bytes(b"\x89PNG\xff\xfe")
    (tmp_path / "nul.txt").write_bytes(b"a\x00b")
    assert "outside" in _refused(_with_materials(tmp_path, f"../{outside.name}")).message
    assert "outside" in _refused(_with_materials(tmp_path, str(outside))).message
    assert "outside" in _refused(_with_materials(tmp_path, "link.txt")).message
    assert "UTF-8" in _refused(_with_materials(tmp_path, "photo.png")).message
    assert "binary" in _refused(_with_materials(tmp_path, "nul.txt")).message
    assert "null byte" in _refused(_file(tmp_path, 'brand: {name: x, uploaded_materials: ["a\\0b"]}')).message
    assert "cannot read 'missing.md'" in _refused(_with_materials(tmp_path, "missing.md")).message


def test_materials_are_bounded(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("x" * 150_000)
    (tmp_path / "b.md").write_text("x" * 60_000)
    assert "200,000" in _refused(_with_materials(tmp_path, "a.md", "b.md")).message
    assert "10 at most" in _refused(_with_materials(tmp_path, *["a.md"] * 11)).message


def test_from_python_materials_come_inline_never_as_a_path() -> None:
    inline = {**BRAND, "uploaded_materials": [{"name": "g", "text": "t"}]}
    assert RunInput.parse({"brand": inline, "product": PRODUCT}).brand.uploaded_materials[0].text == "t"
    with pytest.raises(InputError) as caught:
        RunInput.parse({"brand": {**BRAND, "uploaded_materials": ["/etc/passwd"]}, "product": PRODUCT})
    assert "{name, text}" in caught.value.message
    bounded: dict[str, Any] = {**BRAND, "uploaded_materials": [{"name": "g", "text": "x" * 200_001}]}
    with pytest.raises(InputError, match="200,000"):
        RunInput.parse({"brand": bounded, "product": PRODUCT})


def _with_photo(tmp_path: Path, photo: str, beside: str = "") -> Path:
    return _file(tmp_path, f"brand: {{name: x}}\nproduct: {{name: y, key_features: [a], photo: {photo}}}\n{beside}")


def _png(path: Path) -> Path:
    Image.new("RGB", (80, 64), "red").save(path)
    return path


def test_a_photo_is_stored_and_only_vision_s_input_knows_its_id(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    kept: list[tuple[bytes, str]] = []

    def keep(content: bytes, media_type: str) -> str:
        kept.append((content, media_type))
        return PHOTO_ID

    content = _png(tmp_path / "pictures" / "y.png").read_bytes()
    state = load_input(_with_photo(tmp_path, "pictures/y.png", "image: {kind: thumbnail}"), keep).to_state()
    assert kept == [(content, "image/png")]
    assert state["image_input"] == {"kind": "thumbnail", "photo": PHOTO_ID}
    assert "photo" not in state["product_input"]
    assert PHOTO_ID not in str([state["brand_input"], state["product_input"]])


def test_without_a_photo_the_state_is_as_ever(tmp_path: Path) -> None:
    state = load_input(_with_photo(tmp_path, "null"), _nowhere).to_state()
    assert state["image_input"] == {}
    assert "photo" not in state["product_input"]


@pytest.mark.parametrize(
    ("photo", "says"),
    [
        ("missing.png", "cannot read 'missing.png'"),
        ("..", "outside the input file's folder"),
        ("../secret.png", "outside the input file's folder"),
        ("/etc/hostname", "outside the input file's folder"),
        ("link.png", "outside the input file's folder"),
        ("loop.png", "cannot read 'loop.png'"),
        (".", "cannot read '.'"),
        ('"a\\0b"', "null byte"),
        ("guide.md", "not a PNG, JPEG or WebP image"),
        ("3", "must be the name of a file"),
        ("[a.png]", "must be the name of a file"),
        (PHOTO_ID, f"cannot read '{PHOTO_ID}'"),
    ],
)
def test_a_photo_is_a_file_beside_the_input(tmp_path: Path, photo: str, says: str) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    _png(tmp_path / "secret.png")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "guide.md").write_text("말투: 담백하게")
    assert says in _refused(_with_photo(folder, photo)).message


def test_a_photo_is_stored_last_of_all(tmp_path: Path) -> None:
    _png(tmp_path / "y.png")
    assert "image.kidn" in _refused(_with_photo(tmp_path, "y.png", "image: {kidn: hero}")).message


def test_from_python_a_photo_is_an_id_never_a_path() -> None:
    given = RunInput.parse({"brand": BRAND, "product": {**PRODUCT, "photo": PHOTO_ID}})
    assert given.to_state()["image_input"] == {"photo": PHOTO_ID}
    for wrong in ("/etc/passwd", "photo.png", PHOTO_ID.upper(), PHOTO_ID + "\n", b"\x89PNG", ["x"]):
        with pytest.raises(InputError) as caught:
            RunInput.parse({"brand": BRAND, "product": {**PRODUCT, "photo": wrong}})
        assert "product.photo must be the id of a stored photo" in caught.value.message
        assert "add_photo" in caught.value.hint
    with pytest.raises(InputError, match=r"unknown key image\.photo"):
        RunInput.parse({"brand": BRAND, "product": PRODUCT, "image": {"photo": PHOTO_ID}})
