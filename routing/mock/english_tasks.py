"""English phrases of each task, by the names that the writers ask for."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["PHRASES"]

_GENERAL = {
    "no.product": ("this product",),
    "no.category": ("product",),
    "no.industry": ("consumer goods",),
    "no.target": ("people who care about everyday things",),
    "free": ("Free",),
}

_AGENTS = {
    "brand.avoid": ("Words to avoid: {words}.",),
    "brief.positioning": (
        "{product} is {category:a} made for {target}. The points to make: {features}.",
        "{product} is {category:a} chosen with {target} in mind. What comes first: {features}.",
    ),
    "brief.positioning.bare": ("{product} is {category:a} made for {target}.",),
    "brief.tone": ("Voice: {tone}",),
    "brief.message": ("{feature}: {line}",),
    "brief.value": ("{brand} stands for {values}",),
    "brief.bare": ("Made with {scene} in mind", "{product}, for {target}"),
    "plan.hero": ("Meet {product}", "Introducing {product}", "{product}, from the beginning"),
    "plan.features": ("Why {product}", "{product}, point by point", "What to look at first"),
    "plan.story": ("The moments we had in mind", "Where it fits into your day", "Who it is for"),
    "plan.usage": ("How to begin", "Easy to live with", "Your first day with it"),
    "plan.specs": ("Good to know before you buy", "Product information at a glance"),
    "plan.cta": ("Ready for {product}?", "Start your day with {product}"),
}

_PAGE = {
    "page.headline": ("{first}: {category:a} for {scene}", "{category:a} for {scene}: {first}"),
    "page.headline.bare": ("{product}, {category:a} for {scene}", "{product}, made for {target}"),
    "page.subheadline": ("{rest}. {product} for {target}.", "{product} for {target}. {rest}."),
    "page.bare": ("Meet {product}, {category:a} for {target}.", "{product}, chosen with {target} in mind."),
    "page.cta": ("Get {product}", "See {product}", "Discover {product}"),
    "hero.body": (
        "{hook} {product} is {category:a} for {target}.",
        "{hook} Meet {product}, {category:a} chosen with {target} in mind.",
        "{hook} {product} is made for {scene}, and for {target}.",
    ),
    "hero.positioned": ("{hook} {positioning}",),
    "features.body": (
        "From a distance they all look alike; in use they differ. Here is what {product} brings, point by point.",
        "Small differences add up when you use something every day. See what {product} has thought of.",
        "There is not much you need to know about {category:a}. With {product}, begin here.",
    ),
    "features.bullet": ("{feature}: {sentence}",),
    "features.alone": ("{feature}",),
    "features.bullets": (
        "{category:a} that suits {scene}",
        "Made for {target}",
        "{product}, chosen by what is stated",
    ),
    "story.body": (
        "{opening} {product} is {category:a} that suits {scene}. It finds its place in the day of {target}.",
        "{opening} That is why {product} was chosen with {scene} in mind, and with {target}.",
        "Follow {target} through a day and you see what is needed. {product} suits {scene}.",
    ),
    "story.bullets": (
        "You look at one thing after another before you choose {category:a}",
        "You are looking for something that suits {scene}",
        "You trust a label more than a loud promise",
    ),
    "usage.body": (
        "{advice} From then on, {product} is simply a part of {scene}.",
        "There is no hurry on your first day with {product}. {advice}",
    ),
    "specs.body": (
        "Please check what is stated about {product} before you buy.",
        "The stated facts of {product}. Ask the seller about anything else.",
    ),
    "specs.bullet": ("{name}: {value}",),
    "specs.bullets": ("Name: {product}", "Category: {category}", "Made for: {target}"),
    "faq.body": ("The questions people ask when they choose {product}.", "New to {product}? Read this first."),
    "faq.bullet": ("What about {name}? {value}.",),
    "faq.bullets": (
        "Who is it for? It was chosen with {target} in mind.",
        "What are its features? {features}.",
        "When would I use it? It suits {scene}.",
    ),
    "trust.body": (
        "What you can check before you choose {product}.",
        "Trust begins with checking. Have a look at what {product} states.",
    ),
    "cta.body": (
        "If you were looking for {category:a} for {scene}, meet {product}.",
        "Add {product} to {scene}, starting today. Made for {target}.",
    ),
    "other.body": (
        "{title}: worth a look when you choose {product}.",
        "More about {product}. With {scene} in mind, this part is about {title}.",
        "For everyone who asks about {title}: what to know of {product}.",
    ),
    "price.names": ("price", "가격"),
}

_REVIEW = {
    "review.good": (
        "The copy for {product} was checked: no invented facts, no regulated claims, an even tone.",
        "The copy for {product} agrees with the product data and does not exaggerate. It can be used as it is.",
    ),
    "review.noted": ("The copy for {product} can be used. Please look at the points below.",),
    "review.bad": ("The copy for {product} holds wording that has to be changed, so it is not approved.",),
    "review.left": ("Key features left out for an unsupported superlative or a regulated claim: {count}.",),
    "review.dropped.claim": ("The key feature {words} holds a regulated claim, so the copy leaves it out.",),
    "review.dropped.claim.fix": ("Unless the claim is approved, keep describing the product by confirmed facts.",),
    "review.dropped.superlative": (
        "The key feature {words} holds an unsupported superlative; the copy leaves it out.",
    ),
    "review.dropped.superlative.fix": ("If there is a ground for it, state it in the same words among the facts.",),
    "review.claim": ("{words} suggests that the product treats or prevents an illness, which it may not.",),
    "review.claim.fix": ("Take it out, or say something confirmed about how it is used.",),
    "review.superlative": ("{words} is a superlative for which no ground is given.",),
    "review.superlative.fix": ("Give the ground, or say it more plainly.",),
    "review.banned": ("{words}: the brand does not use this wording.",),
    "review.banned.fix": ("Choose other words that fit the brand's voice.",),
    "review.foreign": ("{words} is not English.",),
    "review.foreign.fix": ("Write it in English.",),
    "review.number": ("{words} is a figure that the product data does not hold.",),
    "review.number.fix": ("Compare it with the data, and take it out if there is no source.",),
}

_OTHERS = {
    "kit.slogan": ("{brand}: {value}", "{brand} begins with {value}", "{value}, by {brand}"),
    "kit.typography": (
        "A bold sans-serif for titles, an even sans-serif for text. Figures large, with a space before the unit.",
        "Clear sans-serif throughout; weight shows the order. Never more than two typefaces on a screen.",
    ),
    "kit.do": ("Say first what {brand} has confirmed", "Write short sentences", "Begin with the reader's day"),
    "kit.avoid": ("Superlatives without ground", "Words that sound like a cure", "Figures that nobody confirmed"),
    "headlines": (
        "{first}: {category:a} for {scene}",
        "{product}, made for {target}",
        "{product}: {first}",
        "Choosing {category:a}? Meet {product}",
        "{product}, chosen for {scene}",
    ),
    "headlines.bare": (
        "{product} for {scene}",
        "{product}, made for {target}",
        "Choosing {category:a}? Meet {product}",
        "{product}, chosen for {scene}",
    ),
    "sns.channels": ("Instagram", "Facebook", "X"),
    "sns.posts": (
        "What comes first in {scene}? Meet {product}, {category:a} for {target}. {features}.",
        "{opening} {product} was chosen with {target} in mind. Have a look at its page.",
        "For {target}: {product} is here.",
    ),
    "sns.posts.bare": (
        "What comes first in {scene}? Meet {product}, {category:a} for {target}.",
        "{opening} {product} was chosen with {target} in mind. Have a look at its page.",
        "For {target}: {product} is here.",
    ),
    "blog.title": ("Choosing {category:a} for {scene}: {product}", "What to look at before you choose {product}"),
    "blog.intro": ("{opening} Today we look at {product}, {category:a} for {target}.",),
    "blog.outro": ("Curious about {product}? Check the stated facts on its page, and the choice becomes clear.",),
    "summary": (
        "{product} is {category:a} for {target}. The main points: {features}.",
        "About {product}, {category:a} for {target}. Worth noting: {features}.",
    ),
    "summary.plain": ("{product} is {category:a} for {target}.",),
    "summary.bare": ("This is about {product}.",),
    "rewrite.product": ("{product} is {category:a} for {target}. The main points: {features}.",),
    "rewrite.written": ("Put the given product data into two sentences.",),
    "rewrite.removed": ("Took out {words}.",),
    "rewrite.marks": ("Put spaces and punctuation right.",),
    "rewrite.kept": ("Checked the sentences; meaning and facts are as they were.",),
    "reason.asked": ("Noted what is asked: {text}",),
    "reason.facts": ("Gathered the facts given: {text}",),
    "reason.limits": ("Left out whatever is not given; no guesses.",),
    "reason.end": ("About {product}, what is given is what should decide. The grounds: {text}",),
    "generic.result": ("The {task} result for {product}, made from what was given and nothing else.",),
    "generic.empty": ("The {task} request came without any material, so there is only this general answer.",),
    "task.brand_summary": ("brand summary",),
    "task.brand_kit": ("brand kit",),
    "task.marketing_brief": ("marketing brief",),
    "task.content_plan": ("page plan",),
    "task.product_detail": ("page copy",),
    "task.sns": ("social posts",),
    "task.headline": ("headlines",),
    "task.blog_post": ("blog post",),
    "task.image_prompt": ("image prompt",),
    "task.style_check": ("copy review",),
    "task.rewrite": ("edited text",),
    "task.short_summary": ("summary",),
    "task.tagging": ("tags",),
    "task.heavy_reasoning": ("reasoning",),
    "chat.title": ("{product}: {task}",),
    "chat.generic": ("About {product}.",),
}

PHRASES: Mapping[str, tuple[str, ...]] = MappingProxyType(_GENERAL | _AGENTS | _PAGE | _REVIEW | _OTHERS)
