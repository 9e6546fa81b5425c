"""The product page: what it shows, that it stands alone, and that nothing hostile gets through."""

from __future__ import annotations

import random
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from sparklio.page import render_page
from sparklio.page.palette import CONTRAST, contrast, palette, readable, valid_colors

HOSTILE = """<script>alert(1)</script>"><img src=x onerror='alert(2)'> javascript:alert(3) {{ 7*7 }}"""
PIXEL = (b"\x89PNG\r\n\x1a\n", "image/png")
VOID = {"meta", "img", "br", "link", "input"}
PLAN = [
    ("top", "hero", "첫인상"),
    ("why", "features", "핵심 특징"),
    ("tale", "story", "이야기"),
    ("use", "usage", "사용 방법"),
    ("facts", "specs", "제품 사양"),
    ("ask", "faq", "자주 묻는 질문"),
    ("care", "care guide", "관리"),
    ("buy", "cta", "구매"),
]


class Page(HTMLParser):
    """The elements of a page with their attributes, and the text within each element by its path."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.comments: list[str] = []
        self.path: list[str] = []
        self.feed(html)
        assert not self.path, f"not closed: {self.path}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.path.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.path.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.path[-1] if self.path else "", data.strip()))

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def text_in(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag]


def a_result(plan: list[tuple[str, str, str]] = PLAN, **changes: Any) -> dict[str, Any]:
    sections = [
        {
            "section_id": name,
            "heading": f"heading {name}",
            "body": f"first {name}\nsecond {name}",
            "bullets": ["a", "b"],
        }
        for name, _, _ in plan
    ]
    result = {
        "brand_summary": {"name": "소리결", "tone": "담백", "values": ["집중"], "colors": ["#22262B", "#F2853F"]},
        "brief": {"target": "SECRET", "positioning": "SECRET", "key_messages": ["SECRET"]},
        "sections": [{"id": name, "type": kind, "title": title} for name, kind, title in plan],
        "copy": {
            "headline": "듣고 싶은 소리만",
            "subheadline": "하루 종일",
            "cta": "지금 시작하세요",
            "sections": sections,
        },
        "image": {"width": 1344, "height": 768, "prompt_used": "SECRET", "url": "http://127.0.0.1/SECRET"},
        "review": {"approved": False, "score": 10, "issues": [{"message": "SECRET"}], "summary": "SECRET"},
        "meta": {"run_id": "SECRET", "mode": "mock"},
    }
    return result | changes


def a_product(**changes: Any) -> dict[str, Any]:
    facts = {"모델명": "SG-A2", "가격": 89000, "방수": True, "색상": ["검정", "하양"], "무게": 4.1}
    product = {"name": "에어 2", "category": "이어폰", "target": "SECRET", "key_features": ["SECRET"], "facts": facts}
    return product | changes


def render(result: dict[str, Any] | None = None, **changes: Any) -> str:
    arguments = {"product": a_product(), "brand": {"name": "소리결"}, "image": PIXEL} | changes
    return render_page(result or a_result(), **arguments)


def copy_with(name: str, **changes: Any) -> dict[str, Any]:
    result = a_result()
    for section in result["copy"]["sections"]:
        if section["section_id"] == name:
            section.update(changes)
    return result


# The whole page ------------------------------------------------------------------------------------------


def test_it_stands_alone():
    html = render()
    page = Page(html)
    assert html.startswith("<!doctype html>")
    assert not {"script", "link", "iframe", "object", "embed", "base", "form", "a"} & {tag for tag, _ in page.elements}
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name in {"href", "style", "srcset"}]
        assert str(attributes.get("src", "data:")).startswith("data:")
    assert "http://" not in html
    assert "https://" not in html
    assert "url(" not in html
    assert "@import" not in html
    assert not page.comments


def test_the_policy_allows_nothing_but_its_own_style_and_image():
    policies = [m["content"] for m in Page(render()).all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_head_and_headings():
    page = Page(render())
    assert page.all("html") == [{"lang": "ko"}]
    assert page.text_in("title") == ["에어 2 | 소리결"]
    assert [meta["content"] for meta in page.all("meta") if meta.get("name") == "description"] == [
        "듣고 싶은 소리만 하루 종일"
    ]
    assert page.text_in("h1") == ["듣고 싶은 소리만"]
    assert page.text_in("h2") == [f"heading {name}" for name, _, _ in PLAN]
    labels = [section["aria-labelledby"] for section in page.all("section") if section.get("aria-labelledby")]
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert labels == ids
    assert len(set(ids)) == len(PLAN) - 1


def test_english_words_for_an_english_page():
    page = Page(render(a_result([("top", "hero", "")]), language="en"))
    assert page.all("html") == [{"lang": "en"}]
    assert page.all("img")[0]["alt"] == "에어 2 product image"
    assert {"Product information", "지금 시작하세요"} <= {text for _, text in page.texts}
    assert "89000" in page.text_in("td")
    assert "Yes" in page.text_in("td")


def test_shoppers_see_nothing_of_the_run():
    html = render()
    assert "SECRET" not in html
    assert "mock" not in html.lower()


def test_the_result_is_left_as_it_was():
    result = a_result()
    render(result)
    assert result == a_result()


# The image ------------------------------------------------------------------------------------------


def test_the_image_is_in_the_page():
    (image,) = Page(render()).all("img")
    assert image == {
        "src": "data:image/png;base64,iVBORw0KGgo=",
        "alt": "에어 2 제품 이미지",
        "width": "1344",
        "height": "768",
    }


@pytest.mark.parametrize("size", [{}, {"width": "100%", "height": 5}, {"width": 0, "height": 0}])
def test_an_unknown_size_is_left_out(size):
    (image,) = Page(render(a_result(image=size))).all("img")
    assert set(image) == {"src", "alt"}


def test_without_an_image():
    page = Page(render(image=None))
    assert not page.all("img")
    assert page.text_in("h1") == ["듣고 싶은 소리만"]


@pytest.mark.parametrize("media_type", ["text/html", 'image/png"><script>', "image/png;x", ""])
def test_only_images_are_put_into_the_page(media_type):
    with pytest.raises(ValueError, match="media type"):
        render(image=(b"x", media_type))


# Sections ------------------------------------------------------------------------------------------


def test_each_kind_has_its_own_layout():
    page = Page(render())
    kinds = [str(section["class"]).split()[:2] for section in page.all("section")]
    assert kinds[0] == ["intro"]
    expected = ["features", "story", "usage", "specs", "faq", "default", "cta"]
    assert [kind for _, kind in kinds[1:]] == expected
    classes = " ".join(str(attributes.get("class", "")) for _, attributes in page.elements)
    assert {"cards", "split", "steps", "questions", "ticks", "call"} <= set(classes.split())
    assert len(page.all("table")) == 1


@pytest.mark.parametrize(
    ("word", "kind"),
    [("Benefits", "features"), ("how to use", "usage"), ("SPECIFICATIONS", "specs"), ("??", "default")],
)
def test_words_that_models_use_for_the_kinds(word, kind):
    page = Page(render(a_result([("top", "hero", ""), ("x", word, "")])))
    assert f"part {kind}" in {" ".join(str(section["class"]).split()[:2]) for section in page.all("section")}


def test_copy_without_a_plan_is_shown_and_a_plan_without_copy_is_not():
    result = a_result()
    result["sections"] = [section for section in result["sections"] if section["id"] != "tale"]
    result["sections"].insert(1, {"id": "ghost", "type": "story", "title": "GHOST"})
    page = Page(render(result))
    assert "GHOST" not in {text for _, text in page.texts}
    assert page.text_in("h2")[-2:] == ["heading tale", "heading buy"]


def test_the_call_to_action_is_always_there_once():
    page = Page(render(a_result([("top", "hero", ""), ("why", "features", "")])))
    assert [text for _, text in page.texts].count("지금 시작하세요") == 1


def test_a_page_without_a_planned_hero_and_with_two():
    assert len(Page(render(a_result([("why", "features", "")]))).all("h1")) == 1
    page = Page(render(a_result([("a", "hero", ""), ("b", "hero", "")])))
    assert len(page.all("h1")) == 1
    assert page.text_in("h2")[:2] == ["heading a", "heading b"]


def test_labels_questions_and_steps_are_split():
    result = copy_with("why", bullets=["가벼움: 들어 보면 압니다", "12:30 정시 알림"])
    for section in result["copy"]["sections"]:
        if section["section_id"] == "ask":
            section["bullets"] = ["Q. 방수가 되나요? A. 네, IPX4입니다.", "물음표 없는 문장"]
    page = Page(render(result))
    assert page.text_in("h3") == ["가벼움", "방수가 되나요?"]
    assert {"들어 보면 압니다", "12:30 정시 알림", "네, IPX4입니다.", "물음표 없는 문장"} <= set(page.text_in("p"))


@pytest.mark.parametrize(
    ("count", "grid"), [(1, "single"), (2, "pairs"), (3, "threes"), (4, "pairs"), (5, "led"), (6, "threes"), (7, "led")]
)
def test_cards_leave_no_hole(count, grid):
    page = Page(render(copy_with("why", bullets=["x"] * count)))
    assert {"class": f"cards {grid}"} in page.all("ol")


def test_empty_bodies_and_bullets():
    result = a_result()
    for section in result["copy"]["sections"]:
        section.update(heading="h", body="", bullets=[])
    page = Page(render(result))
    assert not page.all("ul")
    assert not page.all("ol")


# Facts ------------------------------------------------------------------------------------------


def test_facts_become_a_table():
    page = Page(render())
    cells = dict(zip(page.text_in("th"), page.text_in("td"), strict=True))
    assert cells == {
        "제품명": "에어 2", "모델명": "SG-A2", "가격": "89,000원", "방수": "예", "색상": "검정, 하양", "무게": "4.1",
    }  # fmt: skip
    assert page.text_in("strong") == ["89,000원", "89,000원"]


@pytest.mark.parametrize("price", ["89,000원", "문의", True])
def test_only_a_bare_number_is_made_a_price(price):
    page = Page(render(product=a_product(facts={"가격": price, "개봉 후": None, "크기": {"가로": 3, "세로": 4}})))
    assert page.text_in("td")[1:] == ["예" if price is True else price, "가로: 3, 세로: 4"]


def test_facts_are_shown_without_a_section_for_them():
    page = Page(render(a_result([("top", "hero", ""), ("why", "features", ""), ("buy", "cta", "")])))
    assert page.text_in("h2")[-2:] == ["제품 정보", "heading buy"]
    assert len(page.all("table")) == 1


def test_facts_are_not_listed_again_beneath_their_table():
    result = copy_with("facts", bullets=["모델명: SG-A2", "가격: 89,000원"])
    html = render(result)
    assert html.count("89,000원") == 3, "hero, table and closing band"
    assert html.count("SG-A2") == 1
    assert {"모델명: SG-A2", "가격: 89,000원"} <= set(Page(render(result, product=a_product(facts={}))).text_in("li"))


def test_a_second_section_for_facts_gets_no_second_table():
    page = Page(render(a_result([("top", "hero", ""), ("a", "specs", ""), ("b", "specs", "")])))
    assert len(page.all("table")) == 1
    assert {"heading a", "heading b"} <= set(page.text_in("h2"))


def test_free_delivery_is_called_free():
    assert "무료" in Page(render(product=a_product(facts={"배송비": 0}))).text_in("td")
    assert "Free" in Page(render(product=a_product(facts={"shipping": 0}), language="en")).text_in("td")
    assert "3,000원" in Page(render(product=a_product(facts={"배송비": 3000}))).text_in("td")


def test_ranges_and_percentages_stay_on_one_line():
    result = a_result()
    result["copy"]["headline"] = "병풀추출물 70%부터 <b>30-40대</b>, S-XL 그대로"
    result["copy"]["cta"] = "a" * 20 + "70%부터"
    page = Page(render(result))
    assert [text for text in page.text_in("span") if "-" in text or "%" in text] == ["병풀추출물 70%부터"]
    assert page.text_in("h1") == ["<b>30-40대</b>, S-XL 그대로"]
    result["copy"]["headline"] = "지하철로 출퇴근하는 30-40대를"
    assert '<h1>지하철로 출퇴근하는 <span class="keep">30-40대를</span></h1>' in render(result)
    result["copy"]["headline"] = "30-40대를 위한"
    assert '<h1><span class="keep">30-40대를</span> 위한</h1>' in render(result)


def test_names_and_figures_stay_whole_in_korean_headings():
    product = a_product(name="봄결 시카 수분 세럼", category="수분 세럼")
    result = a_result()
    result["copy"]["headline"] = "봄결 시카 수분 세럼의 하루, 용량 50ml"
    korean = render(result, product=product)
    assert (
        '<h1><span class="unit">봄결 시카 수분 세럼의</span> 하루, <span class="keep">용량 50ml</span></h1>' in korean
    )
    assert 'class="unit"' not in render(result, product=product, language="en")


def test_the_call_to_action_does_not_pose_as_a_button():
    html = render()
    (rule,) = re.findall(r"\.cta \.call \{\n(.+?)\}", html, re.DOTALL)
    assert "background" not in rule
    assert not Page(html).all("a")


@pytest.mark.parametrize("colors", [["#E4002B", "#FFFFFF"], ["#FFFFFF"], ["#FFD400", "#FFFFFF"], ["#FFFDF5"], None])
def test_tinted_surfaces_can_be_told_from_the_paper(colors):
    chosen = palette(colors)
    assert contrast(chosen["tint"], chosen["paper"]) >= 1.07
    assert contrast(chosen["ink"], chosen["tint"]) >= CONTRAST


@pytest.mark.parametrize("facts", [{}, None])
def test_no_facts_no_table(facts):
    page = Page(render(product=a_product(facts=facts)))
    assert not page.all("table")
    assert not page.text_in("strong")


def test_a_product_may_say_little():
    page = Page(render(product={"name": "에어 2"}, brand={}))
    assert page.text_in("footer") == ["소리결"]


# Hostile input ------------------------------------------------------------------------------------------


def test_hostile_text_stays_text():
    plan = [(f"s{index}", kind, HOSTILE) for index, (_, kind, _) in enumerate(PLAN)]
    result = a_result([*plan, *((f"x{index}", HOSTILE, HOSTILE) for index in range(4))])
    result["brand_summary"] = {"name": HOSTILE, "colors": [HOSTILE]}
    result["copy"].update(headline=HOSTILE, subheadline=HOSTILE, cta=HOSTILE)
    for section in result["copy"]["sections"]:
        section.update(heading=HOSTILE, body=HOSTILE, bullets=[HOSTILE, f"라벨: {HOSTILE}", f"질문? {HOSTILE}"])
    product = {"name": HOSTILE, "category": HOSTILE, "facts": {HOSTILE: HOSTILE, "긴": "v" * 500}}
    html = render_page(result, product=product, brand={"name": HOSTILE}, image=PIXEL, language=HOSTILE)
    page = Page(html)
    assert not page.all("script")
    assert len(page.all("img")) == 1
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert not [value for _, attributes in page.elements if "javascript:" in str(value := attributes.get("src"))]
    assert page.text_in("h1") == [HOSTILE]
    assert len(page.text_in("h2")) == 11  # the hero's heading repeats the headline


def test_only_colours_reach_the_style_sheet():
    colors = ["red;}</style><script>", "#12345", "#22262B;", "url(http://x)", "#22262b\n", 7, None, "#f2853f"]
    html = render(a_result(brand_summary={"name": "x", "colors": colors}))
    root = html[html.index(":root {") : html.index("}", html.index(":root {"))]
    values = re.findall(r"--[a-z-]+: (.+);", root)
    assert len(values) == 10
    assert all(re.fullmatch(r"#[0-9A-F]{6}", value) for value in values)
    assert html.count("</style>") == 1


# Colours ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "ratio"), [("#000000", "#FFFFFF", 21), ("#FFFFFF", "#FFFFFF", 1), ("#777777", "#FFFFFF", 4.48)]
)
def test_contrast_is_that_of_wcag(one, other, ratio):
    assert contrast(one, other) == pytest.approx(ratio, abs=0.005)
    assert contrast(other, one) == contrast(one, other)


@pytest.mark.parametrize("colors", [None, [], "#22262B", ["#2226"], {"#22262B": 1}])
def test_without_a_usable_colour_the_palette_is_neutral(colors):
    assert valid_colors(colors) == []
    assert palette(colors) == palette([])


def test_the_brands_colours_are_used():
    found = palette(["#22262b", "#DDE3E6", "#F2853F"])
    assert (found["band"], found["accent"]) == ("#22262B", "#F2853F")
    assert palette(["#FFEE00"])["band"] == "#FFEE00"


def test_readable_keeps_a_colour_that_already_is():
    assert readable("#22262B", ["#FFFFFF"]) == "#22262B"
    assert contrast(readable("#F2853F", ["#FFFFFF", "#EEF1F3"]), "#EEF1F3") >= 4.5


def test_every_text_is_readable_whatever_the_brands_colours():
    dice = random.Random(7)
    for _ in range(400):
        colors = [f"#{dice.randrange(1 << 24):06X}" for _ in range(dice.randint(0, 4))]
        found = palette(colors)
        for text in ("ink", "muted", "accent-ink"):
            assert contrast(found[text], found["paper"]) >= 4.5, (colors, text)
            assert contrast(found[text], found["tint"]) >= 4.5, (colors, text)
        for text in ("on-band", "on-band-accent"):
            assert contrast(found[text], found["band"]) >= 4.5, (colors, text)
