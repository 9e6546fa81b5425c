"""What copy must not say: health claims, superlatives without ground, words that the brand does not use."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["find_banned", "find_claims", "find_foreign", "find_superlatives", "is_claim", "is_superlative", "soften"]

# Cosmetics and health food may not promise to treat or prevent an illness; its name alone suggests it.
_ILLNESS = (
    r"(?:아토피|여드름|피부염|습진|건선|탈모|당뇨|고혈압|고지혈|관절염|비염|천식|우울증|불면증|치매|염증|항암|암세포)"
    r"(?:[을를의이가]?\s?(?:완화|치료|예방|개선|억제|제거|치유|감소))?"
)
# Words that are claims by themselves only together with a verb of improvement, and the verbs each kind goes with:
# a "관절형 스탠드", a "혈압 측정" and a "주름 없는 셔츠" promise nothing about the body.
_BLOOD = (
    r"혈압|혈당|콜레스테롤|중성\s?지방|혈행|혈액\s?순환|혈관|면역(?:력|\s?체계|\s?기능|\s?세포)?|(?<!다)관절|연골"
    r"|골밀도|척추"
    r"|(?<![가-힣])(?:간|장|위|뇌)\s?(?:기능|수치)"
    r"|심장|신장|전립선|갱년기|호르몬|시력|기억력|인지력|두뇌|신진\s?대사|기초\s?대사량|소화\s?기능|골다공증"
)
_AILMENT = (
    r"체지방|내장\s?지방|뱃살|군살|비만|체중|다이어트|변비|배변|불면|수면\s?장애|스트레스|우울감?|불안감?|노화|감기|독감"
    r"|기미|잡티|색소\s?침착|미백|흉터|부종|붓기|독소|노폐물|알레르기|가려움증?|피부(?:\s?(?:장벽|탄력|세포))?|두피|모발"
)
_PAIN = r"통증|두통|요통|생리통|근육통|관절통|신경통|치통|거북목"
_BETTER = (
    r"(?:치료|치유|완치|예방|개선|완화|억제|감소|회복|재생|해소|증진|향상|강화|촉진|튼튼"
    r"|줄[이여임]|낮[추춤춰]|높[여임]|막아)"
)
_BLOOD_VERBS = (
    rf"(?:{_BETTER}|관리|케어|건강|해독|지[켜키킴]|도움|돕|효과|좋[은아습]|내[려림]|분해|배출|\bup\b|업(?![가-힣]))"
)
_AILMENT_VERBS = rf"(?:{_BETTER}|감량|제거|분해|배출|연소|빼|빠지|방지|늦[추춰]|지연|효과|도움|보조제?|태[우워])"
# What is measured, recorded or shown is not promised.
_GAP = (
    r"(?:력|기능|수치)?(?:[은는이가을를의도과와에]|까지)?\s?"
    r"(?:(?!측정|기록|체크|알림|분석|데이터|계산)[^,.;·/\n]){0,9}?"
)
_LATIN_BODY = (
    r"blood\s(?:pressure|sugar|flow|circulation)|cholesterol|immun\w+|joints?|liver|digestion|metabolism"
    r"|body\sfat|belly\sfat|hair\s(?:loss|growth)|wrinkles?|insomnia|ag(?:e)?ing|inflammation|pain|headaches?"
    r"|fatigue|anxiety|depression|bones?"
)
_LATIN_CARE = (
    r"(?:lower|reduc|boost|strengthen|improv|reliev|sooth|prevent|treat|cur|heal|burn|fight|eas|revers|enhanc)"
    r"(?:e|es|s|ed|ing)?"
)
_CLAIM = re.compile(
    rf"{_ILLNESS}|완치|(?:질병|질환)[을를의]?\s?(?:완화|치료|예방|개선)|(?<![가-힣])치료(?!\s?용?\s?기)"
    rf"|(?:{_BLOOD}){_GAP}{_BLOOD_VERBS}|(?:{_AILMENT}){_GAP}{_AILMENT_VERBS}"
    rf"|(?:{_PAIN}){_GAP}(?:{_BETTER}|없[는이애]|제로|제거|잡[는아]|해방|완화)"
    r"|(?:피로|숙취)감?[을를이가]?\s?(?:(?:빠르게|빠른|완전히|싹)\s?)?(?:회복|해소|개선|극복|풀[리어려])"
    r"|주름[을를의]?\s?(?:개선|완화|감소|치료)"
    r"|(?<![가-힣])(?:(?:간|장|위|눈|뇌|뼈)\s?건강|뼈[를가]?\s?(?:튼튼|강화)|간[을의]?\s?(?:해독|보호))"
    r"|(?:관절|연골|혈관)[을의]?\s?보호"
    r"|(?:혈압|혈당|콜레스테롤|체중|체지방|호르몬)[을를의]?\s?조절"
    r"|부작용[이가도은]?\s?(?:없|제로)|살[이을]?\s?(?:빠지|빼[는기])|항노화|안티\s?에이징"
    r"|(?:튼튼한|강한|건강한)\s(?:면역|관절|혈관|심장|뼈(?!대))"
    r"|\b(?:eczema|acne|psoriasis|dermatitis|diabetes|hypertension|cancer|arthritis|asthma|insomnia|dementia|atopic)\b"
    r"(?:\s(?:relief|treatment|prevention|care))?"
    rf"|\b{_LATIN_CARE}\s(?:[\w'’]+\s){{0,2}}?(?:{_LATIN_BODY})\b"
    r"|\b(?:immun\w+|joint|liver|heart|bone|gut)\s(?:health|support|boost\w*|care)\b|\banti-?ag(?:e)?ing\b"
    r"|\b(?:pain|wrinkle|fatigue|stress|anxiety)\s(?:relief|reduction|treatment)\b|\bpain[- ]free\b|\bfat[- ]?burn\w*"
    r"|\bweight[- ]loss\b|\blos(?:e|es|ing)\sweight\b|\bhair[- ]loss\b|\bno side effects\b"
    r"|\b(?:cures?|heals?|treats?|prevents?)\s(?:disease|illness|pain|inflammation)s?\b",
    re.IGNORECASE,
)
_SUPERLATIVE = re.compile(
    r"(?:업계|국내|세계|전국|동급|국가대표)\s?(?:최고|최초|최대|최다|최저가?|1위|유일|넘버원)(?:의|급)?"
    # "최고 온도", "최고 속도" are figures; "최대 9시간" is one too.
    r"|(?<![가-힣])최고(?!\s?(?:온도|속도|출력|압력|사양|기온|높이|회전|해상도|점|도수))(?:의|급|로|예요|입니다)?(?![가-힣])"
    r"|(?<![가-힣])(?:최초|최상(?!급\s?표현)|최강|최저가|역대급|역대\s?최\S|끝판왕|넘사벽|압도적|기적|무조건|완벽|혁명적|독보적|유일|유일무이"
    r"|넘버원|종결자|따라올\s수\s없)(?:의|한|인|급|하게|히|이다)?(?![가-힣])"
    r"|(?<![\d.])1\s?(?:위(?!치)|등(?!급|분))"
    r"|\b(?:world['’]?s\s(?:best|first|finest|only)|(?:the\s)?best(?![- ](?:before|by|practice))(?:[- ]ever)?"
    r"|number\sone|ultimate|revolutionary|unbeatable|unrivall?ed|miracle|perfect|the\sonly|greatest|most\sadvanced)\b|\bno\.?\s?1\b(?!\d)|(?<!\w)#1\b",
    re.IGNORECASE,
)
# Words before a noun may be taken out and the sentence still stands; "국내 1위를 기록했습니다" may not.
_ATTRIBUTE = re.compile(rf"(?:{_SUPERLATIVE.pattern})(?<=[의한인급])\s+(?=[가-힣A-Za-z0-9])", re.IGNORECASE)
_FOREIGN = re.compile(r"[぀-ヿ㐀-䶿一-鿿]+")


def _found(pattern: re.Pattern[str], text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(match.group().strip() for match in pattern.finditer(text)))


def find_claims(text: str) -> tuple[str, ...]:
    """Regulated claims of the text, e.g. ``아토피 완화``."""
    return _found(_CLAIM, text)


def is_claim(text: str) -> bool:
    return _CLAIM.search(text) is not None


def find_superlatives(text: str) -> tuple[str, ...]:
    return _found(_SUPERLATIVE, text)


def is_superlative(text: str, ground: str = "") -> bool:
    """Whether the text boasts of what the ``ground``, e.g. the seller's facts, does not say in the same words."""
    return any(word not in ground for word in find_superlatives(text))


def find_foreign(text: str) -> tuple[str, ...]:
    """Chinese characters and kana, which have no place on a Korean or English page."""
    return _found(_FOREIGN, text)


def find_banned(text: str, banned: Iterable[str]) -> tuple[str, ...]:
    return tuple(word for word in banned if word and word in text)


def soften(text: str) -> str:
    """A sentence without the superlatives before its nouns; empty where one is left that the sentence is built on."""
    softened = re.sub(r"\s{2,}", " ", _ATTRIBUTE.sub("", text)).strip(" ,")
    return "" if is_superlative(softened) else softened
