"""What may be said in English of a feature or a target, for the domains in which it is true.

A feature that no row fits is printed alone: a sentence about nothing in particular reads worse than none.
"""

from __future__ import annotations

from routing.mock.pen import compile_rules

__all__ = ["FEATURES", "SCENES"]

_DURABLES = "audio computer kitchen appliance living furniture outdoor fashion accessory stationery kids pet"
_GOODS = f"{_DURABLES} supplement food drink beauty"

SCENES = compile_rules(
    ("outdoor kitchen food drink", r"camp|캠핑|백패킹", "a day at the campsite"),
    ("audio accessory fashion app stationery", r"commut|subway|출퇴근|지하철", "the daily commute"),
    ("computer furniture audio app", r"programmer|developer|remote|개발자|재택", "a long day at the desk"),
    (
        "supplement food drink audio computer app fashion accessory beauty stationery",
        r"office|worker|professional|직장인|회사원",
        "a busy weekday",
    ),
    ("computer stationery furniture app living", r"student|exam|학생|수험", "an evening of study"),
    (
        "kids food appliance living furniture",
        r"parent|mother|father|\bmom|\bdad|부모|육아|엄마|아빠",
        "a day with the children",
    ),
    ("pet appliance", r"\bpets?\b|dog owner|cat owner|반려|집사", "a day with a pet"),
    (
        "supplement food outdoor fashion accessory audio",
        r"runner|gym|workout|athlete|hik|운동|헬스|러닝|등산",
        "a training day",
    ),
    ("audio accessory fashion outdoor beauty", r"travel|여행|출장", "a day on the road"),
    ("", r"gift|선물", "the day you choose a gift"),
)

FEATURES = compile_rules(
    (
        "supplement food drink",
        r"단백|protein",
        "protein comes first",
        "for the days when meals alone leave a gap, and protein is what you look for.",
    ),
    (
        "supplement food drink",
        r"sugar|저당|무당|제로",
        "easier on days when sugar is on your mind",
        "a welcome line for anyone who reads the label before the first bite.",
    ),
    (
        "supplement food drink",
        r"easy|quick|instant|shake|간편|쉐이크|원터치",
        "less to prepare, more of the day left",
        "what takes effort is soon given up, so the easy way was part of the choice.",
    ),
    (
        "audio",
        r"noise|\bANC\b|소음\s?차단|노이즈",
        "closer to what you were listening to",
        "when the room is loud, it helps you stay with what you were listening to.",
    ),
    (
        "computer appliance furniture",
        r"silent|quiet|저소음|무소음",
        "quiet enough to share a room",
        "the person at the next desk has a day of their own.",
    ),
    (
        "computer",
        r"switch|스위치|\d축",
        "a feel chosen for the fingertips",
        "you press it countless times a day, so the feel was chosen first.",
    ),
    (
        "computer",
        r"layout|compact|배열|레이아웃|portable|mini|휴대|컴팩트",
        "room to spare around it",
        "how far your hands travel and how much space is left were weighed together.",
    ),
    (
        "computer appliance outdoor",
        r"hot-?swap|modular|replaceable|핫\s?스왑|교체",
        "made to be changed, part by part",
        "for people who would sooner change one part than the whole.",
    ),
    (
        "audio computer appliance",
        r"bluetooth|wireless|multi-?device|wi-?fi|블루투스|무선|페어링",
        "no cable to tidy away",
        "one thing less to untangle before you carry on with your work.",
    ),
    (
        "audio computer appliance outdoor",
        r"battery|charge|hours?\b|충전(?!재)|배터리|연속",
        "fewer thoughts about charging",
        "the less you look for a charger, the more you simply use it.",
    ),
    (
        "audio accessory",
        r"weight|lightweight|무게|경량|가벼",
        "considered down to its weight",
        "with something you carry every day, the figure is worth a look.",
    ),
    (
        "audio outdoor accessory",
        r"water|IPX?\d|splash|방수|방진",
        "calm about a little water",
        "made with rain and sweat in mind; the stated rating says how far that goes.",
    ),
    (
        "beauty living",
        r"fragrance|unscented|무향",
        "easy on days when scent is too much",
        "leaving something out can matter as much as putting it in.",
    ),
    (
        "beauty food supplement fashion accessory",
        r"vegan|비건",
        "for people with a clear standard",
        "the line to check first if you also care how things are made.",
    ),
    (
        "beauty",
        r"moistur|hydrat|보습|수분",
        "for the days when skin feels dry",
        "made with the comfort of putting it on in mind.",
    ),
    (
        _GOODS,
        r"organic|recycled|local|유기농|국산|친환경",
        "good to know where it comes from",
        "choosing by origin is a small standard to keep every day.",
    ),
    (
        "supplement food drink beauty pet",
        r"extract|contains|ingredient|추출물|함유|원료|성분",
        "what is inside, by name and figure",
        "see what it holds and how much of it before you decide.",
    ),
    (
        _GOODS,
        r"certif|patent|tested|인증|특허|시험",
        "a standard in place of big words",
        "for people who would sooner check than be persuaded.",
    ),
    (
        "kitchen appliance outdoor accessory",
        r"capacity|litre|liter|용량",
        "a clear idea of how much it holds",
        "once you know how much it holds, you can picture where it fits.",
    ),
    (
        "fashion accessory living furniture kitchen kids stationery",
        r"cotton|wool|linen|leather|\bwood(?:en)?\b|steel|silicone|titanium|alumini?um|소재|원단|가죽|원목",
        "chosen by touch, material first",
        "with something you touch often, the material makes itself felt.",
    ),
    (
        "fashion kitchen living appliance kids outdoor accessory",
        r"wash|clean|세척|세탁|관리",
        "thought through to the tidying up",
        "the minutes after use count as well.",
    ),
    (
        _DURABLES,
        r"warranty|보증|무상",
        "looked after once it is yours",
        "know beforehand what you may need afterwards.",
    ),
    (
        "living furniture appliance audio computer kitchen",
        r"design|colou?r|finish|디자인|색상|마감",
        "easy on the eye",
        "it stays in view all day, so its looks were weighed like its use.",
    ),
    (
        "supplement food drink",
        r"flavou?r|chocolate|vanilla|맛|초코",
        "a taste you come back to",
        "a habit lasts when it tastes right.",
    ),
    (
        "kitchen furniture outdoor appliance living computer",
        r"weight|무게|경량",
        "easy to picture in your hands",
        "lets you picture carrying it before it arrives.",
    ),
    (
        "kitchen",
        r"induction|인덕션",
        "for the hob you already have",
        "see whether it suits your stove before you choose.",
    ),
    (
        "furniture",
        r"\bload\b|capacity|하중",
        "a figure to check beforehand",
        "worth knowing before you put it to use.",
    ),
    (
        "furniture",
        r"adjust|tilt|armrest|headrest|lumbar|조절|팔걸이",
        "set to the person who uses it",
        "bodies differ, so look first at what can be adjusted.",
    ),
    (
        "outdoor living",
        r"lumen|brightness|밝기|루멘",
        "brightness for after dark",
        "a figure makes brightness easy to compare.",
    ),
    ("app", r"sync|동기화", "carry on from any device", "pick up on one device what you began on another."),
    ("app", r"offline|오프라인", "even without a connection", "what you were doing goes on where the internet ends."),
    ("app", r"search|검색", "easy to find again", "the more you keep, the more it matters how you find it."),
    (
        "",
        r"shipping|delivery|배송",
        "from order to doorstep",
        "please check the delivery terms once more before you order.",
    ),
)
