"""Korean phrases of each task, by the names that the writers ask for."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["PHRASES"]

_GENERAL = {
    "no.product": ("이 제품",),
    "no.category": ("제품",),
    "no.industry": ("생활용품",),
    "no.target": ("일상을 아끼는 분",),
    "free": ("무료",),
}

_AGENTS = {
    "brand.avoid": ("쓰지 않는 말: {words}.",),
    "brief.positioning": (
        "{product:은} {target:을} 위한 {category}입니다. 내세울 점: {features}.",
        "{product:은} {target:을} 먼저 생각한 {category}입니다. 먼저 알릴 점: {features}.",
    ),
    "brief.positioning.bare": ("{product:은} {target:을} 위한 {category}입니다.",),
    "brief.tone": ("말투: {tone}",),
    "brief.message": ("{feature}, {line}",),
    "brief.value": ("{brand:이} 지키는 것: {values}",),
    "brief.bare": ("{scene:을} 생각한 {category}", "{target:을} 위한 {product}"),
    "plan.hero": ("{product:을} 소개합니다", "처음 만나는 {product}", "{product}, 기본부터 차근차근"),
    "plan.features": ("{product:을} 고르는 이유", "하나씩 살펴보는 {product}", "먼저 확인할 점"),
    "plan.story": ("이런 순간을 생각했습니다", "하루의 어떤 장면에 어울릴까요", "이런 분께 권합니다"),
    "plan.usage": ("이렇게 시작해 보세요", "오래 편하게 이어 가는 방법", "처음 시작하는 날을 위해"),
    "plan.specs": ("구매 전에 확인하는 정보", "한눈에 보는 제품 정보"),
    "plan.cta": ("{product:을} 만나 보세요", "{product:과} 함께 시작하는 하루"),
}

_PAGE = {
    "page.headline": ("{first}, {scene:을} 생각한 {category}", "{scene:을} 위한 {category}, {first}"),
    "page.headline.bare": ("{scene:을} 생각한 {category}, {product}", "{target:을} 위한 {category}, {product}"),
    "page.subheadline": ("{rest}. {target:을} 위한 {product}.", "{target:을} 위한 {product}. {rest}."),
    "page.bare": ("{target:을} 위한 {category}, {product:을} 소개합니다.", "{target:을} 먼저 생각한 {product}입니다."),
    "page.cta": ("{product} 만나보기", "{product} 자세히 보기", "지금 {product} 알아보기"),
    "hero.body": (
        "{hook} {product:은} {target:을} 위한 {category}입니다.",
        "{hook} {target:을} 먼저 생각한 {category}, {product:이} 그 시작을 돕습니다.",
        "{hook} {product:은} {scene}에 어울리는 {category}입니다. {target:을} 먼저 생각했습니다.",
    ),
    "hero.positioned": ("{hook} {positioning}",),
    "features.body": (
        "비슷해 보여도 속은 저마다 다릅니다. {product:을} 고르는 이유를 하나씩 확인해 보세요.",
        "작은 차이도 매일 쌓이면 하루의 느낌이 달라집니다. {product:이} 챙긴 것을 살펴보세요.",
        "{category:을} 고를 때 눈여겨볼 점은 많지 않습니다. {product}에서는 이것부터 보세요.",
    ),
    "features.bullet": ("{feature}: {sentence}",),
    "features.alone": ("{feature}",),
    "features.bullets": (
        "{scene}에 어울리는 {category}",
        "{target:을} 먼저 생각한 선택",
        "표시 정보를 보고 고르는 {product}",
    ),
    "story.body": (
        "{opening} {product:은} {scene}에 어울리는 {category}입니다. {target}의 일상에 부담 없이 자리 잡습니다.",
        "{opening} 그래서 {product:은} {scene:을} 가장 먼저 떠올렸습니다. {target}에게 자연스럽게 어울리도록.",
        "{target}의 하루를 따라가 보면 필요한 것이 보입니다. {product:은} 그 가운데 한 장면을 위한 {category}입니다.",
    ),
    "story.bullets": (
        "{category:을} 고르기 전에 하나씩 살펴보는 분",
        "{scene}에 어울릴 {category:을} 찾고 있는 분",
        "큰 말보다 표시된 내용을 먼저 보는 분",
    ),
    "usage.body": (
        "{advice} 그다음부터 {product:은} {scene}에 자연스럽게 자리 잡습니다.",
        "{advice} 서두르지 않아도 괜찮습니다. {product:은} 천천히 알아 가면 됩니다.",
    ),
    "specs.body": (
        "구매하기 전에 {product}의 표시 정보를 확인해 주세요.",
        "{product}의 표시 정보입니다. 더 궁금한 점은 판매처에 문의해 주세요.",
    ),
    "specs.bullet": ("{name}: {value}",),
    "specs.bullets": ("제품명: {product}", "분류: {category}", "이런 분께: {target}"),
    "faq.body": ("{product:을} 고르며 자주 떠올리는 물음을 모았습니다.", "{product:이} 처음이라면 먼저 읽어 보세요."),
    "faq.bullet": ("{name:은} 어떻게 되나요? {value}입니다.",),
    "faq.bullets": (
        "누구에게 알맞은가요? {target:을} 생각한 {category}입니다.",
        "어떤 특징이 있나요? {features}.",
        "언제 쓰면 좋을까요? {scene}에 어울립니다.",
    ),
    "trust.body": (
        "{product:을} 고르기 전에 확인할 수 있는 내용입니다.",
        "믿음은 확인에서 시작합니다. {product}의 표시 내용을 살펴보세요.",
    ),
    "cta.body": (
        "{scene:을} 함께할 {category:을} 찾고 있었다면, 이제 {product:을} 만나 볼 차례입니다.",
        "{scene}에 {product:을} 더해 보세요. {target:을} 위한 {category}입니다.",
    ),
    "other.body": (
        "{title}, {product:을} 고를 때 함께 살펴볼 내용입니다.",
        "{product}에서 이어지는 이야기입니다. {scene:을} 생각하며 {title:을} 정리했습니다.",
        "{title:이} 궁금한 분을 위해 {product}의 내용을 모았습니다.",
    ),
    "price.names": ("가격", "판매가", "정가", "할인가"),
}

_REVIEW = {
    "review.good": (
        "{product} 문안을 확인했습니다. 자료에 없는 사실이나 규제 표현이 보이지 않고 말투가 고릅니다.",
        "{product} 문안은 제품 정보와 맞고 말투가 고르게 담백하여 그대로 쓸 수 있습니다.",
    ),
    "review.noted": ("{product} 문안은 쓸 수 있습니다. 다만 아래에 적은 점을 살펴 주세요.",),
    "review.bad": ("{product} 문안에 반드시 고쳐야 할 표현이 있어 승인하지 않았습니다.",),
    "review.left": ("제품 특징 가운데 근거 없는 최상급이나 규제 대상 표현이 담긴 {count}가지는 문안에서 뺐습니다.",),
    "review.dropped.claim": ("제품 특징 {words:은} 규제 대상 효능 표현이 담겨 있어 문안에서 뺐습니다.",),
    "review.dropped.claim.fix": ("인정받은 기능이 아니라면 앞으로도 이 표현 없이 확인된 사실로 설명하세요.",),
    "review.dropped.superlative": ("제품 특징 {words:은} 근거가 없는 최상급 표현이 담겨 있어 문안에서 뺐습니다.",),
    "review.dropped.superlative.fix": ("근거가 있다면 출처와 함께 제품 정보(facts)에 같은 말로 적어 주세요.",),
    "review.claim": ("{words:은} 질병의 치료나 예방을 떠올리게 하여 쓸 수 없는 표현입니다.",),
    "review.claim.fix": ("이 표현을 빼고 확인된 사실이나 사용감으로 바꾸세요.",),
    "review.superlative": ("{words:은} 근거가 제시되지 않은 최상급 표현입니다.",),
    "review.superlative.fix": ("근거를 밝히거나 담백한 표현으로 바꾸세요.",),
    "review.banned": ("{words:은} 브랜드가 쓰지 않기로 한 말입니다.",),
    "review.banned.fix": ("브랜드 말투에 맞는 다른 말로 바꾸세요.",),
    "review.foreign": ("{words:은} 한글이 아닌 글자입니다.",),
    "review.foreign.fix": ("우리말로 바꾸어 적으세요.",),
    "review.number": ("{words:은} 제품 자료에서 찾을 수 없는 숫자입니다.",),
    "review.number.fix": ("자료의 숫자와 맞는지 확인하고, 근거가 없으면 빼세요.",),
}

_OTHERS = {
    "kit.slogan": ("{value:을} 생각하는 {brand}", "{brand}, {value:을} 고르다", "{value}에서 시작하는 {brand}"),
    "kit.typography": (
        "제목은 굵은 고딕, 본문은 획이 고른 고딕을 씁니다. 숫자와 단위는 띄어 쓰고 크게 보여 줍니다.",
        "제목과 본문 모두 또렷한 고딕을 쓰고 굵기로 차례를 나눕니다. 한 화면에 글꼴은 두 가지를 넘기지 않습니다.",
    ),
    "kit.do": ("{brand:이} 확인한 사실을 먼저 말하기", "짧은 문장으로 쓰기", "읽는 사람의 하루에서 이야기를 시작하기"),
    "kit.avoid": ("근거 없는 최상급 표현", "질병의 치료나 예방을 떠올리게 하는 말", "확인되지 않은 수치"),
    "headlines": (
        "{first}, {scene:을} 생각한 {category}",
        "{target:을} 위한 {category}, {product}",
        "{scene:을} 위한 {category}, {first}",
        "{category:을} 고르는 기준, {product}",
        "{scene:을} 위해 고른 {product}",
    ),
    "headlines.bare": (
        "{scene}에 더하는 {product}",
        "{target:을} 위한 {category}, {product}",
        "{category:을} 고르는 기준, {product}",
        "{scene:을} 위해 고른 {product}",
    ),
    "sns.channels": ("인스타그램", "네이버 블로그", "카카오톡 채널"),
    "sns.posts": (
        "{scene:을} 생각하며 고른다면? {target:을} 위한 {product:을} 소개합니다. {features}.",
        "{opening} {product:은} {target:을} 생각한 {category}입니다. 자세한 내용은 제품 페이지에서 확인해 보세요.",
        "{target:을} 위한 소식입니다. {product:을} 지금 만나 보세요.",
    ),
    "sns.posts.bare": (
        "{scene:을} 생각하며 고른다면? {target:을} 위한 {product:을} 소개합니다.",
        "{opening} {product:은} {target:을} 생각한 {category}입니다. 자세한 내용은 제품 페이지에서 확인해 보세요.",
        "{target:을} 위한 소식입니다. {product:을} 지금 만나 보세요.",
    ),
    "blog.title": ("{scene}에 어울리는 {category} 고르기: {product}", "{product:을} 고르기 전에 살펴볼 것"),
    "blog.intro": ("{opening} 오늘은 {target:을} 위한 {category}, {product:을} 살펴봅니다.",),
    "blog.outro": ("{product:이} 궁금하다면 제품 페이지에서 표시 정보를 확인해 보세요. 고르는 기준이 분명해집니다.",),
    "summary": (
        "{product:은} {target:을} 위한 {category}입니다. 주요 특징: {features}.",
        "{target:을} 위한 {category} {product:을} 다룹니다. 눈여겨볼 점: {features}.",
    ),
    "summary.plain": ("{product:은} {target:을} 위한 {category}입니다.",),
    "summary.bare": ("{product:을} 다룬 내용입니다.",),
    "rewrite.product": ("{product:은} {target:을} 위한 {category}입니다. 주요 특징: {features}.",),
    "rewrite.written": ("주어진 제품 정보를 두 문장으로 정리했습니다.",),
    "rewrite.removed": ("{words:을} 뺐습니다.",),
    "rewrite.marks": ("띄어쓰기와 문장 부호를 바로잡았습니다.",),
    "rewrite.kept": ("뜻과 사실을 그대로 두고 문장을 확인했습니다.",),
    "reason.asked": ("다룰 내용을 확인했습니다: {text}",),
    "reason.facts": ("주어진 사실을 모았습니다: {text}",),
    "reason.limits": ("주어지지 않은 것은 짐작하지 않고 판단에서 뺐습니다.",),
    "reason.end": ("{product}에 관해서는 주어진 내용 안에서 판단하는 것이 알맞습니다. 근거: {text}",),
    "generic.result": ("{product:을} 바탕으로 한 {task} 결과입니다. 주어진 내용만 바탕으로 정리했습니다.",),
    "generic.empty": ("{task} 요청을 받았습니다. 함께 온 내용이 없어 일반적인 안내만 드립니다.",),
    "task.brand_summary": ("브랜드 요약",),
    "task.brand_kit": ("브랜드 키트",),
    "task.marketing_brief": ("마케팅 브리프",),
    "task.content_plan": ("페이지 구성안",),
    "task.product_detail": ("상세 페이지 문안",),
    "task.sns": ("SNS 게시글",),
    "task.headline": ("헤드라인 제안",),
    "task.blog_post": ("블로그 글",),
    "task.image_prompt": ("이미지 프롬프트",),
    "task.style_check": ("문안 검토",),
    "task.rewrite": ("다듬은 글",),
    "task.short_summary": ("요약",),
    "task.tagging": ("태그",),
    "task.heavy_reasoning": ("판단과 근거",),
    "chat.title": ("{product}의 {task}",),
    "chat.generic": ("{product}에 관해 정리했습니다.",),
}

PHRASES: Mapping[str, tuple[str, ...]] = MappingProxyType(_GENERAL | _AGENTS | _PAGE | _REVIEW | _OTHERS)
