"""Tables of products: what their cells mean, and what is said of those that are wrong."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from providers.errors import InputError
from routing.packaged_files import EXAMPLE_INPUT
from sparklio.batch.cells import as_meant, neutral
from sparklio.batch.forms import Filled, Forms
from sparklio.batch.pace import Pace, span
from sparklio.batch.plan import Key
from sparklio.batch.spool import Spool
from sparklio.batch.table import Row, open_table
from tests.conftest import BRAND, PRODUCT
from tests.standins.pictures import drawn

HEADER = "brand.name,name,key_features"
ROOT = Path(__file__).resolve().parent.parent


def rows_of(content: str | bytes, name: str = "many.csv") -> list[Row]:
    path = Path(name)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(open_table(path).rows())


def filled(content: str | bytes, defaults: Path | None = None) -> list[Filled]:
    forms = Forms(Path(), defaults)
    return [forms.fill(row) for row in rows_of(content)]


def refused(content: str | bytes, name: str = "many.csv") -> str:
    """What is said of a table, or of its first row, that is wrong."""
    with pytest.raises(InputError) as told:
        for row in rows_of(content, name):
            Forms(Path()).fill(row)
    assert told.value.hint
    return told.value.message


# what cells mean


def test_columns_are_paths_and_empty_cells_are_left_out() -> None:
    titles = (
        "id;Brand.Name;brand.industry;product.name;product.category;target;key_features;product.facts.가격;"
        "facts.용량 (ml);image.kind;image.seed;language;brand.uploaded_materials"
    )
    Path("guide.md").write_text("우리는 짧게 씁니다.", encoding="utf-8")
    [row] = rows_of(f'{titles}\na1;소리결;;에어 2;이어폰;;"소음 차단|9시간\n가볍다 | ";89000;;hero;7;en;guide.md\n')
    assert row.name == "a1"
    assert row.data == {
        "brand": {"name": "소리결", "uploaded_materials": ["guide.md"]},
        "product": {
            "name": "에어 2",
            "category": "이어폰",
            "key_features": ["소음 차단", "9시간", "가볍다"],
            "facts": {"가격": "89000"},
        },
        "image": {"kind": "hero", "seed": "7"},
        "language": "en",
    }
    inputs = Forms(Path()).fill(row).inputs
    assert (inputs.image.seed, inputs.brand.uploaded_materials[0].text) == (7, "우리는 짧게 씁니다.")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp949", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_what_spreadsheets_write(encoding: str, delimiter: str, end: str) -> None:
    cells = (HEADER.split(","), ("소리결", "뷁, 에어; 2", "소음 차단|9시간"))
    text = end.join(delimiter.join(f'"{cell}"' for cell in row) for row in cells) + end
    [row] = rows_of(text.encode(encoding))
    assert row.data["product"] == {"name": "뷁, 에어; 2", "key_features": ["소음 차단", "9시간"]}


def test_rows_are_numbered_as_in_the_sheet() -> None:
    table = f'{HEADER}\nA,one,"x\ny"\n\n,,\nA,two,x\n'
    assert [(row.number, row.place) for row in rows_of(table)] == [
        (2, "many.csv row 2"),
        (5, "many.csv row 5 (line 6)"),
    ]


def test_a_folder_of_input_files_is_read_by_name_and_not_below() -> None:
    folder = Path("shop")
    (folder / "deeper").mkdir(parents=True)
    for name in ("b.yaml", "a.yml", ".hidden.yaml", "deeper/c.yaml", "notes.txt"):
        (folder / name).write_text(yaml.safe_dump({"brand": BRAND, "product": PRODUCT}, allow_unicode=True), "utf-8")
    (folder / "c.yaml").write_text("brand: [", "utf-8")
    rows = list(open_table(folder).rows())
    assert [(row.number, row.name) for row in rows] == [(1, "a"), (2, "b"), (3, "c")]
    assert Forms(folder).fill(rows[0]).inputs.brand.name == BRAND["name"]
    assert rows[2].problem is not None
    assert "c.yaml:1:" in rows[2].problem


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ({"brand": {**BRAND, "uploaded_materials": ["none.md"]}}, "a.yaml: uploaded_materials: cannot read 'none.md'"),
        ({"product": {**PRODUCT, "photo": 3}}, "a.yaml: product.photo must be the name of a file"),
        ({"product": {**PRODUCT, "photo": "big.png"}}, "a.yaml: product.photo: 'big.png' is larger than 20,000,000"),
        ({"brand": "소리결"}, "a.yaml: brand: must be a mapping"),
    ],
)
def test_what_is_said_of_wrong_input_files(part: dict[str, Any], says: str) -> None:
    folder = Path("shop")
    folder.mkdir()
    with Path("shop/big.png").open("wb") as sparse:
        sparse.truncate(20_000_001)
    wish = {"brand": BRAND, "product": PRODUCT, **part}
    (folder / "a.yaml").write_text(yaml.safe_dump(wish, allow_unicode=True), encoding="utf-8")
    [row] = open_table(folder).rows()
    with pytest.raises(InputError) as told:
        Forms(folder).fill(row)
    assert says in told.value.message


def test_the_example_is_a_table() -> None:
    path = ROOT / "examples" / "batch.csv"
    inputs = [Forms(path.parent).fill(row).inputs for row in open_table(path).rows()]
    assert len(inputs) == 5
    assert len({one.image.kind for one in inputs}) == 3
    assert not [warning for one in inputs for warning in one.warnings]


def test_what_all_rows_share() -> None:
    Path("shared").mkdir()
    Path("shared/guide.md").write_text("짧게", encoding="utf-8")
    shared = {
        "language": "en",
        "brand": {**BRAND, "uploaded_materials": ["guide.md"]},
        "product": {"category": "이어폰", "facts": {"제조국": "대한민국", "가격": 1}},
    }
    Path("shared/brand.yaml").write_text(yaml.safe_dump(shared, allow_unicode=True), encoding="utf-8")
    [one] = filled("name,key_features,facts.가격\n에어 2,9시간,89000\n", Path("shared/brand.yaml"))
    assert one.inputs.language == "en"
    assert one.inputs.brand.name == BRAND["name"]
    assert one.inputs.brand.uploaded_materials[0].text == "짧게"
    assert (one.inputs.product.category, one.inputs.product.facts) == (
        "이어폰",
        {"제조국": "대한민국", "가격": "89000"},
    )


def test_wrong_defaults_are_told_once_by_their_own_name() -> None:
    Path("brand.yaml").write_text("brand: {nmae: x}", encoding="utf-8")
    with pytest.raises(InputError, match=r"brand\.yaml: unknown key brand\.nmae"):
        Forms(Path(), Path("brand.yaml"))


# what is wrong


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("", "no header row"),
        (",,\n", "no header row"),
        ("name,key_featrues\nx,y\n", "column 2: unknown title 'key_featrues'"),
        ("name,가격\nx,1\n", "unknown title '가격'"),
        ("name,product.name\nx,y\n", "columns 1 and 2 both are product.name"),
        (f"{HEADER}\nA,x,y,z\n", "many.csv row 2: column 4 has a value and no title"),
        (f"{HEADER},\nA,x,y,z\n", "many.csv row 2: column 4 has a value and no title"),
        (f"{HEADER}\nA,,y\n", "many.csv row 2: product.name is missing"),
        (f"{HEADER}\nA,x,\n", "many.csv row 2: product.key_features is missing"),
        (f"{HEADER},language\nA,x,y,kr\n", "many.csv row 2: language: must be"),
        (f"{HEADER},image.seed\nA,x,y,red\n", "many.csv row 2: image.seed: must be a whole number"),
        (f"{HEADER},photo\nA,x,y,nowhere.jpg\n", "many.csv row 2: product.photo: there is no file 'nowhere.jpg'"),
        (f"{HEADER},photo\nA,x,y,../x.jpg\n", "outside the input file's folder"),
        (f'{HEADER}\nA,x,"y\nB,x,y\n', "the row that begins in line 2 cannot be read"),
        (f'{HEADER}\nA,x,"y"z\n', "the row that begins in line 2 cannot be read"),
        (f"{HEADER}\nA,x,{'y' * 140_000}\n", "the row that begins in line 2 cannot be read"),
    ],
)
def test_what_is_said_of_wrong_tables(table: str, says: str) -> None:
    assert says in refused(table)


def test_files_that_are_no_tables() -> None:
    assert "neither UTF-8 nor CP949" in refused(b"\xff\x00\x81\x20\xff")
    assert "is no CSV file" in refused(b"PK", "many.xlsx")
    assert "the input of one page" in refused(EXAMPLE_INPUT.read_bytes(), "one.yaml")
    with pytest.raises(InputError, match="cannot read"):
        open_table(Path("nowhere.csv"))


# cells and programs for tables


@pytest.mark.parametrize("text", ["=1+1", "+82", "-42dB", "@home", " =1", "\t=1", "\x00=1", "＝1", "\ufeff@x", "\rx"])
def test_a_formula_is_neutral_and_reads_back(text: str) -> None:
    assert neutral(text) == f"'{text}"
    assert as_meant(neutral(text)) == text


@given(st.text())
def test_any_text_reads_back(text: str) -> None:
    written = io.StringIO(newline="")
    csv.writer(written).writerow([neutral(text), "end"])
    [[cell, _]] = csv.reader(io.StringIO(written.getvalue(), newline=""), strict=True)
    if not (text.startswith("'") and as_meant(text) != text):  # what a spreadsheet has marked as text already
        assert as_meant(cell) == text


# ids


def run_id(key: Key, **changes: Any) -> str:
    row = Row(2, "many.csv row 2", "", {"brand": BRAND, "product": {**PRODUCT, **changes}})
    return key.run_id(row, Forms(Path()).fill(row))


def test_an_id_follows_from_the_batch_and_the_row_s_content() -> None:
    key = Key("상품 Summer/Sale 2026", "mock", "draft")
    ids = {
        run_id(key),
        run_id(key, target="누구나"),
        run_id(Key("other", "mock", "draft")),
        run_id(Key(key.batch, "live", "draft")),
        run_id(Key(key.batch, "mock", "final")),
    }
    assert len(ids) == 5
    assert run_id(key) == run_id(key)
    assert all(len(one) <= 48 and one.isascii() for one in ids)
    assert run_id(key, name="Air 2 무선 이어폰").startswith("Summer-Sale-20-Air-2-")
    assert run_id(Key("상품", "mock", "draft"), name="이어폰").startswith("batch-")


def test_another_photo_of_the_same_name_is_another_row() -> None:
    Path("jar.png").write_bytes(drawn(80, 80))
    first = run_id(Key("b", "mock", "draft"), photo="jar.png")
    Path("jar.png").write_bytes(drawn(90, 90))
    assert run_id(Key("b", "mock", "draft"), photo="jar.png") != first


# time left


def test_the_time_left_is_measured_or_unknown() -> None:
    now = 0.0
    pace = Pace(2, clock=lambda: now)
    assert (pace.left_s(10), pace.per_minute()) == (None, None)
    pace.begin(0)
    pace.begin(1)
    now = 5.0
    assert pace.left_s(8) is None, "nothing has ended yet"
    now = 10.0
    pace.end(0)
    pace.end(1)
    assert pace.left_s(8) == 40.0, "four rounds of two rows"
    assert pace.per_minute() == 12.0
    pace.begin(2)
    now = 14.0
    assert pace.left_s(0) == 6.0, "the last one is under way since four seconds"
    now = 90.0
    assert pace.left_s(0) == 0.0
    pace.drop(2)
    assert pace.under_way == 0
    assert pace.left_s(1) == 10.0, "one row cannot be shared"


def test_spans() -> None:
    told = [span(seconds) for seconds in (None, 0.4, 59.4, 59.6, 200, 7_500, 360_000)]
    assert told == ["unknown", "0s", "59s", "1m00s", "3m20s", "2h05m", "4d04h"]


def test_a_spool_keeps_the_latest_value_of_each_number(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        for number in range(5):
            assert spool.append({"n": number, "text": "가\ud800\n"}) == number
        spool[3] = {"n": "three", "text": ""}
        assert [value["n"] for value in spool] == [0, 1, 2, "three", 4]
        assert spool[0]["text"] == "가\ud800\n"
        assert list(tmp_path.iterdir()) == []
