"""The kind of a product, by words of its category: it chooses the copy's scenes and the picture's nouns."""

from __future__ import annotations

import re

__all__ = ["GENERAL", "domain_of", "english_noun"]

GENERAL = "general"

# Korean words, English words.
_DOMAINS: tuple[tuple[str, str, str], ...] = (
    (
        "app",
        r"(?<![가-힣])(?:앱|어플)(?![가-힣])|애플리케이션|소프트웨어|구독\s?서비스|플랫폼|웹\s?서비스",
        r"\bapps?\b|software|\bsaas\b|\bplatform\b|web service",
    ),
    (
        "audio",
        r"이어폰|이어버드|헤드폰|헤드셋|스피커|음향|오디오",
        r"earbud|earphone|headphone|headset|speaker|audio",
    ),
    (
        "pet",
        r"반려|강아지|고양이|애견|애묘|사료|(?<![가-힣])펫",
        r"\bpets?\b|\bdogs?\b|\bcats?\b|puppy|kitten",
    ),
    (
        "furniture",
        r"가구|의자|체어|책상|테이블|소파|침대|수납장|책장|선반|옷장|서랍장",
        r"furniture|chair|\bdesk\b|\btable\b|sofa|\bbed\b|shelf|shelves|bookcase|cabinet",
    ),
    (
        "computer",
        r"키보드|마우스|모니터|노트북|컴퓨터|태블릿|충전기|보조\s?배터리",
        r"keyboard|\bmouse\b|monitor|laptop|computer|tablet|charger|power bank",
    ),
    (
        "kids",
        r"유아|아기|베이비|어린이|키즈|완구|장난감|이유식",
        r"baby|kids|toddler|\btoys?\b",
    ),
    (
        "supplement",
        r"보충제|단백질|프로틴|건강\s?기능|건강식품|영양제|비타민|유산균|홍삼|오메가",
        r"protein|supplement|vitamin|probiotic",
    ),
    (
        "beauty",
        r"화장품|스킨케어|세럼|(?<!스)(?<!아이스)크림(?!빵)|로션|토너|앰플|클렌[징저]|샴푸|마스크팩|립스틱|립밤|뷰티|향수",
        r"skincare|serum|(?<!ice )\bcream\b|lotion|\btoner\b|cosmetic|shampoo|sunscreen|beauty|perfume|cleanser",
    ),
    (
        "drink",
        r"커피|원두|음료|주스|드립백|녹차|홍차|허브티|와인|맥주|전통주|생수",
        r"coffee|\btea\b|juice|beverage|\bdrinks?\b|\bwine\b|beer",
    ),
    (
        "appliance",
        r"가전|청소기|공기\s?청정|가습기|제습기|선풍기|에어컨|세탁기|냉장고|전기\s?포트|에어\s?프라이어|밥솥|커피\s?머신",
        r"appliance|vacuum cleaner|purifier|humidifier|\bfan\b|washer|fridge|kettle|air fryer|coffee machine",
    ),
    (
        "outdoor",
        r"캠핑|텐트|등산|아웃도어|자전거|낚시|요가|운동(?!화)|헬스|골프|러닝(?!화)",
        r"camping|\btent\b|outdoor|hiking|bicycle|\bbike\b|yoga|fitness|golf",
    ),
    (
        "kitchen",
        r"주방|냄비|프라이팬|후라이팬|그릇|식기(?!세척)|텀블러|도마|식칼|주방칼|머그|컵(?!케이크|라면)|보온병",
        r"kitchen|cookware|\bpan\b|\bpot\b|tableware|tumbler|\bmug\b|knife|cutting board",
    ),
    (
        "food",
        r"식품|간식|과자|빵|떡|김치|반찬|고기|과일|밀키트|도시락|소스|참기름|(?<![가-힣])꿀|견과|초콜릿|쌀|국수|라면|아이스크림",
        r"food|snack|bread|sauce|honey|chocolate|\bmeal\b|kimchi|\brice\b|noodle",
    ),
    (
        "accessory",
        r"신발|운동화|러닝화|구두|가방|백팩|지갑|모자|양말|벨트|시계",
        r"shoe|sneaker|\bbag\b|backpack|wallet|\bhat\b|socks|\bbelt\b|\bwatch\b",
    ),
    (
        "fashion",
        r"의류|셔츠|바지|청바지|원피스|자켓|재킷|코트|니트|패딩|패션|잠옷",
        r"shirt|pants|jeans|dress|jacket|\bcoat\b|knit|hoodie|fashion|apparel|clothing",
    ),
    (
        "living",
        r"매트리스|이불|베개|침구|조명|램프|커튼|캔들|디퓨저|러그",
        r"mattress|bedding|pillow|\blamp\b|curtain|candle|diffuser|\brug\b|home decor",
    ),
    (
        "stationery",
        r"문구|노트(?!북)|다이어리|만년필|볼펜|필기|플래너",
        r"stationery|notebook|\bdiary\b|\bpens?\b|planner",
    ),
)
_PATTERNS = tuple((name, re.compile(f"{korean}|{english}", re.IGNORECASE)) for name, korean, english in _DOMAINS)

_NOUNS: tuple[tuple[str, str], ...] = (
    (
        r"(?<![가-힣])(?:앱|어플)(?![가-힣])|소프트웨어|\bapps?\b|software|\bsaas\b",
        "smartphone showing a clean app screen",
    ),
    (r"사료|(?:강아지|고양이|반려).*간식|pet food|dog food|cat food", "bag of pet food"),
    (r"이어폰|이어버드|earbud|earphone", "wireless earbuds with their charging case"),
    (r"헤드폰|헤드셋|headphone|headset", "over-ear headphones"),
    (r"스피커|speaker", "compact speaker"),
    (r"키보드|keyboard", "mechanical keyboard"),
    (r"마우스|\bmouse\b", "computer mouse"),
    (r"모니터|monitor", "desktop monitor"),
    (r"노트북|laptop", "laptop computer"),
    (r"충전기|보조배터리|charger|power bank", "compact charger"),
    (r"단백질|프로틴|protein", "protein powder pouch beside a shaker bottle"),
    (r"비타민|보충제|유산균|홍삼|vitamin|supplement|probiotic", "supplement jar with a plain label"),
    (r"세럼|앰플|serum|ampoule", "glass serum bottle with a dropper"),
    (r"(?<!스)크림|(?<!ice )cream", "cosmetic cream jar"),
    (r"샴푸|클렌|shampoo|cleanser", "pump bottle"),
    (r"화장품|스킨케어|로션|토너|cosmetic|skincare|lotion|toner", "minimal cosmetic bottle"),
    (r"향수|perfume", "perfume bottle"),
    (r"커피|원두|coffee", "bag of coffee beans with a cup of coffee"),
    (r"녹차|홍차|허브티|\btea\b", "box of tea with a cup of tea"),
    (r"음료|주스|juice|beverage|drink", "bottled drink"),
    (r"텐트|\btent\b", "camping tent"),
    (r"랜턴|lantern", "camping lantern"),
    (r"김치|kimchi", "kimchi in a plain food tub"),
    (r"의자|체어|chair", "chair"),
    (r"책상|\bdesk\b", "desk"),
    (r"침대|매트리스|mattress", "mattress on a simple bed"),
    (r"이불|베개|침구|bedding|pillow", "neatly folded bedding"),
    (r"조명|램프|lamp|lighting", "table lamp"),
    (r"캔들|candle", "candle in a glass"),
    (r"텀블러|tumbler", "insulated tumbler"),
    (r"냄비|\bpot\b", "cooking pot with its lid"),
    (r"[프후]라이팬|\bpan\b", "frying pan"),
    (r"그릇|식기|컵|머그|tableware|\bmug\b", "ceramic tableware"),
    (r"청소기|vacuum", "cordless vacuum cleaner"),
    (r"공기청정|purifier", "air purifier"),
    (r"가습기|humidifier", "humidifier"),
    (r"선풍기|\bfan\b", "electric fan"),
    (r"신발|운동화|러닝화|구두|shoe|sneaker", "pair of shoes"),
    (r"가방|백팩|\bbag\b|backpack", "bag"),
    (r"셔츠|shirt", "folded shirt"),
    (r"자켓|재킷|코트|jacket|coat", "jacket on a hanger"),
    (r"장난감|완구|\btoys?\b", "wooden toy"),
    (r"노트(?!북)|다이어리|플래너|notebook|diary|planner", "notebook"),
    (r"펜|\bpens?\b", "pen"),
)
_NOUN_PATTERNS = tuple((re.compile(words, re.IGNORECASE), noun) for words, noun in _NOUNS)

_DOMAIN_NOUNS = {
    "audio": "audio device",
    "app": "smartphone showing a clean app screen",
    "computer": "computer accessory",
    "pet": "pet product",
    "kids": "children's product",
    "supplement": "supplement package",
    "beauty": "cosmetic container",
    "drink": "packaged drink",
    "food": "packaged food",
    "outdoor": "outdoor gear",
    "fashion": "folded garment",
    "accessory": "fashion accessory",
    "furniture": "piece of furniture",
    "kitchen": "kitchenware",
    "appliance": "home appliance",
    "living": "home furnishing",
    "stationery": "stationery item",
    GENERAL: "consumer product",
}


def domain_of(*texts: str) -> str:
    """The domain of the first text that names one, so the category counts before the industry."""
    for text in texts:
        for name, pattern in _PATTERNS:
            if pattern.search(text):
                return name
    return GENERAL


def english_noun(domain: str, category: str, *others: str) -> str:
    """What a photographer would call the product, in English; an English category speaks for itself."""
    for text in (category, *others):
        for pattern, noun in _NOUN_PATTERNS:
            if pattern.search(text):
                return category if category and category.isascii() and domain != "app" else noun
    return category if category and category.isascii() else _DOMAIN_NOUNS[domain]
