"""What may be said in Korean of a feature or a target, for the domains in which it is true.

A feature that no row fits is printed alone: a sentence about nothing in particular reads worse than none.
"""

from __future__ import annotations

from routing.mock.pen import compile_rules

__all__ = ["FEATURES", "SCENES"]

_EATEN = "supplement food drink"
_HOME = "kitchen appliance living furniture"
_DEVICES = "audio computer appliance outdoor"
_DURABLES = "audio computer kitchen appliance living furniture outdoor fashion accessory stationery kids pet"
_GOODS = f"{_DURABLES} {_EATEN} beauty"

SCENES = compile_rules(
    ("outdoor kitchen food drink", r"캠핑|백패킹|차박", "캠핑장의 하루"),
    ("audio accessory fashion app stationery", r"출퇴근|지하철|통근", "출퇴근길"),
    ("computer furniture audio app", r"개발자|프로그래머|재택|오래 앉", "오래 앉아 일하는 날"),
    ("pet appliance", r"반려|집사|강아지|고양이|견주", "반려동물과 보내는 하루"),
    ("supplement food outdoor fashion accessory audio", r"운동|헬스|러너|러닝|등산|골프|요가", "운동하는 날"),
    ("computer stationery furniture app living", r"학생|수험|공부", "공부하는 시간"),
    ("kids food appliance living furniture", r"육아|부모|엄마|아빠|아이", "아이와 보내는 하루"),
    ("beauty fashion", r"환절기|건조", "환절기"),
    (_HOME, r"신혼|이사", "새로 꾸린 집"),
    (_HOME, r"자취|1인|혼자", "혼자 사는 집"),
    ("audio accessory fashion outdoor beauty", r"여행|출장", "여행길"),
    (f"{_EATEN} audio computer app fashion accessory beauty stationery", r"직장인|회사원|사무실", "바쁜 평일"),
    ("", r"선물", "선물을 고르는 날"),
)

FEATURES = compile_rules(
    (
        _EATEN,
        r"단백|프로틴|protein",
        "단백질부터 먼저 챙기는 하루",
        "식사만으로 아쉬운 날, 단백질을 먼저 챙기고 싶은 분을 생각했습니다.",
    ),
    (
        _EATEN,
        r"저당|무당|제로\s?슈거|무설탕|당류",
        "당이 신경 쓰이는 날에도 편하게",
        "단것 앞에서 성분표를 먼저 보는 분이라면 반가운 조건입니다.",
    ),
    (
        _EATEN,
        r"간편|쉐이크|즉석|손쉬|easy|quick",
        "준비는 짧고 하루는 그대로",
        "챙기는 과정이 번거로우면 오래 이어 가기 어렵습니다. 간편할수록 자주 손이 갑니다.",
    ),
    (
        "audio",
        r"소음\s?차단|노이즈\s?캔슬|\bANC\b|noise",
        "주변보다 듣던 것에 집중",
        "주변이 소란스러울 때, 듣고 있던 것에 더 집중할 수 있게 돕습니다.",
    ),
    (
        "computer appliance furniture",
        r"저소음|무소음|조용|silent|quiet",
        "옆자리를 생각하는 조용함",
        "소리에 민감한 시간과 공간에서도 마음이 덜 쓰입니다.",
    ),
    (
        _DEVICES,
        r"충전(?!재|물)|배터리|battery|charge",
        "충전 걱정을 덜어 주는 시간",
        "충전기를 찾는 일이 줄면 쓰는 일에 마음을 더 둘 수 있습니다.",
    ),
    (
        "audio accessory",
        r"무게|경량|가벼|weight|light",
        "오래 지녀도 부담을 덜도록",
        "매일 지니는 물건일수록 무게는 숫자로 확인하는 편이 좋습니다.",
    ),
    (
        f"{_HOME} outdoor computer",
        r"무게|경량|가벼|weight",
        "들고 옮기는 순간까지",
        "들고 옮길 때의 느낌을 미리 가늠해 볼 수 있습니다.",
    ),
    (
        "audio outdoor accessory",
        r"방수|방진|IPX?\d|water",
        "물기 앞에서도 침착하게",
        "비나 땀처럼 미리 알 수 없는 물기를 생각했습니다. 사용 범위는 표시된 등급을 따릅니다.",
    ),
    (
        "computer",
        r"배열|레이아웃|layout|텐키리스",
        "책상 위 여백을 남기는 배열",
        "손이 움직이는 거리와 책상의 여백을 함께 보았습니다.",
    ),
    (
        "computer",
        r"스위치|switch|\d축",
        "손끝에 닿는 감각부터",
        "하루에도 수없이 누르는 만큼, 손에 닿는 느낌부터 골랐습니다.",
    ),
    (
        "computer appliance outdoor",
        r"핫\s?스왑|hot-?swap|교체형|모듈",
        "바꿔 가며 오래 쓰는 구조",
        "한 부분을 바꿔 가며 오래 쓰고 싶은 분께 어울립니다.",
    ),
    (
        "audio computer appliance",
        r"블루투스|무선|bluetooth|wireless",
        "선을 덜어 낸 자리",
        "선을 정리하는 수고를 덜고, 하던 일을 그대로 이어 갈 수 있습니다.",
    ),
    (
        "beauty living",
        r"무향|향료",
        "향에 예민한 날에도 편안하게",
        "향에 민감한 분이라면 더하는 것만큼 덜어 내는 것도 중요합니다.",
    ),
    (
        "beauty food supplement fashion accessory",
        r"비건|vegan",
        "고르는 기준이 분명한 분께",
        "만드는 방식까지 살피는 분이라면 먼저 확인하는 조건입니다.",
    ),
    (
        "beauty",
        r"보습|수분|촉촉|히알루론",
        "건조함이 마음 쓰이는 날",
        "당김이 느껴지기 쉬운 날, 바르는 순간의 편안함을 생각했습니다.",
    ),
    (
        f"{_EATEN} pet kids",
        r"국산|국내산|원산지|산지",
        "어디에서 왔는지 아는 마음",
        "출처를 알고 고르는 일은 매일의 작은 기준이 됩니다.",
    ),
    (
        _GOODS,
        r"유기농|친환경|무농약|재활용|organic|recycled",
        "만드는 과정까지 살피는 분께",
        "무엇으로 어떻게 만드는지까지 보는 분께 반가운 조건입니다.",
    ),
    (
        f"{_EATEN} beauty pet",
        r"추출물|함유|함량|원료|성분",
        "들어 있는 것을 이름부터 분명하게",
        "무엇이 들었는지 이름부터 확인하고 고를 수 있습니다.",
    ),
    (
        f"{_EATEN} beauty pet kids",
        r"무첨가|무곡물|프리$|-?free\b",
        "덜어 낸 만큼 단순하게",
        "넣은 것보다 넣지 않은 것을 먼저 보는 분께 알맞습니다.",
    ),
    (
        "food",
        r"숙성|발효|재운",
        "기다린 시간이 만드는 맛",
        "시간을 들여야 비로소 나는 맛이 있습니다.",
    ),
    (
        _GOODS,
        r"인증|특허|시험\s?(?:성적|완료|통과)|HACCP",
        "말보다 기준으로",
        "말보다 기준을 먼저 확인하는 분께 어울립니다.",
    ),
    (
        "kitchen outdoor furniture living",
        r"접이|폴딩|foldable",
        "쓰지 않을 때는 작게",
        "쓰지 않는 동안 차지하는 자리를 줄일 수 있습니다.",
    ),
    (
        "audio computer beauty stationery",
        r"휴대|미니|컴팩트|콤팩트|소형|슬림|compact|portable",
        "꺼내기 쉽고 넣기 쉽게",
        "가방과 서랍 사이를 자주 오간다면 부피부터 살펴볼 만합니다.",
    ),
    (
        "kitchen appliance outdoor accessory",
        r"용량|\d\s?리터|넉넉|capacity",
        "넉넉함을 가늠하는 기준",
        "얼마나 담기는지 미리 알면 쓰는 장면이 또렷해집니다.",
    ),
    (
        "kitchen",
        r"인덕션|가스레인지|하이라이트",
        "지금 쓰는 주방에서 그대로",
        "지금 쓰는 화구와 맞는지 고르기 전에 확인할 수 있습니다.",
    ),
    ("kitchen", r"코팅|법랑", "재료가 닿는 면부터", "재료가 직접 닿는 면이라 먼저 살펴볼 만합니다."),
    (
        "furniture",
        r"하중|내하중",
        "쓰기 전에 확인하는 기준",
        "오래 두고 쓰려면 먼저 확인해야 할 숫자입니다.",
    ),
    (
        "furniture",
        r"조절|틸팅|팔걸이|헤드레스트|요추|럼버",
        "몸에 맞추어 쓰는 자리",
        "사람마다 체형이 다른 만큼, 맞출 수 있는 부분을 먼저 보게 됩니다.",
    ),
    (
        "outdoor living",
        r"루멘|밝기|조도|lumen",
        "어두워진 뒤에도 분명하게",
        "얼마나 밝은지는 숫자로 견주어 보면 분명합니다.",
    ),
    (
        "app",
        r"동기화|여러\s?기기|sync",
        "어느 기기에서든 이어서",
        "한 기기에서 하던 일을 다른 기기에서 이어 갈 수 있습니다.",
    ),
    ("app", r"오프라인|offline", "연결이 없는 곳에서도", "인터넷이 닿지 않는 곳에서도 하던 일을 멈추지 않아도 됩니다."),
    ("app", r"검색|search", "적어 둔 것을 다시 찾기 쉽게", "쌓인 것이 많아질수록 찾는 방법이 중요해집니다."),
    (
        "drink",
        r"원두|로스팅|산미|아라비카|roast",
        "첫 모금에서 갈리는 취향",
        "취향에 맞는 한 잔을 고를 때 먼저 살피는 부분입니다.",
    ),
    (
        "fashion accessory living furniture kitchen kids stationery",
        r"순면|(?<![가-힣])[면울]\s|코튼|린넨|가죽|원목|스테인리스|실리콘|메[쉬시]|소재|원단|티타늄|알루미늄|cotton|leather|steel",
        "만져 보고 고르듯 소재부터",
        "자주 닿는 물건은 소재에서 차이를 느끼게 됩니다.",
    ),
    ("fashion", r"핏|기장|실루엣", "입었을 때의 모양부터", "같은 치수라도 핏에 따라 입는 느낌이 달라집니다."),
    (
        "fashion accessory",
        r"색상|컬러|colou?r",
        "가진 옷과 나란히 놓고 고르기",
        "자주 입는 옷과 어울리는 색을 고를 수 있습니다.",
    ),
    (
        "living furniture appliance audio computer kitchen",
        r"디자인|색상|컬러|마감|design|colou?r",
        "늘 보이는 자리를 생각한 생김새",
        "늘 보이는 자리에 두는 물건이라 모양도 쓰임만큼 살피게 됩니다.",
    ),
    (
        "fashion kitchen living appliance kids outdoor accessory",
        r"세척|세탁|건조기|washable",
        "쓰고 난 뒤까지 생각한 관리",
        "쓰는 시간만큼 정리하는 시간도 중요하니까요.",
    ),
    (
        _DURABLES,
        r"보증|A/?S|무상|warranty",
        "구입한 다음까지",
        "구입한 뒤에 필요한 것까지 미리 확인해 두세요.",
    ),
    (
        _EATEN,
        r"맛|초코|바닐라|딸기|flavou?r",
        "입에 맞아 이어 가는 습관",
        "자주 손이 가려면 입에 맞는지가 먼저입니다.",
    ),
    ("", r"배송|당일\s?발송|새벽\s?도착", "주문부터 받는 날까지", "배송 조건은 주문하기 전에 한 번 더 확인해 주세요."),
)
