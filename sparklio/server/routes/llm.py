"""One request to the LLM gateway: any role, any task, an answer as a whole or as it is written."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StrictBool, model_validator
from sse_starlette import ServerSentEvent

from routing.contracts import LLMAnswer, LLMOptions, LLMRequest, OnProgress, Progress
from sparklio.server.bodies import JsonRoute, check_json, request_id_of, wants_events
from sparklio.server.errors import ErrorBody
from sparklio.server.once import IdempotencyKey
from sparklio.server.services import ServicesOf
from sparklio.server.sse import answered, event, event_content

__all__ = ["router"]

router = APIRouter(tags=["llm"], route_class=JsonRoute)


class TextOptions(LLMOptions):
    model_config = ConfigDict(strict=True)  # else `true` is a dollar, and a seed

    stream: StrictBool = Field(default=False, description="answer with events; as `Accept: text/event-stream` does")


class TextRequest(LLMRequest):
    """Role and task may be any words and the payload any JSON; ``input`` is another name for ``payload``."""

    options: TextOptions = TextOptions()

    _checked = model_validator(mode="before")(check_json)

    def asked(self, request: Request) -> LLMRequest:
        """What goes to the gateway: ``stream`` is between the client and us."""
        return LLMRequest(
            request_id=request_id_of(self, request),
            role=self.role,
            task=self.task,
            mode=self.mode,
            payload=self.payload,
            options=LLMOptions.model_validate(self.options.model_dump(exclude={"stream"}, exclude_unset=True)),
        )


class FingerprintAnswer(BaseModel):
    """Equal fingerprints: the same answer would do. Each part tells what has changed."""

    fingerprint: dict[str, str]


_BRIEF = {
    "target": "퇴근 후 운동하는 20-30대 직장인",
    "positioning": "한 끼처럼 든든한 저당 단백질 쉐이크",
    "key_messages": ["한 잔에 단백질 30g", "당 1g 미만", "물만 부어 10초"],
}
_SECTIONS = [
    {"id": "hero", "type": "hero", "title": "퇴근길 10초, 단백질 30g"},
    {"id": "features", "type": "features", "title": "맛있게 채우는 저당 단백질"},
]
_PRODUCT = {
    "name": "프로틴플러스 초코맛",
    "category": "단백질 보충제",
    "key_features": ["고단백 30g", "저당", "간편 쉐이크"],
    "facts": {"용량": "1kg", "가격": 39000},
}
_COPY = {
    "headline": "퇴근길 10초, 단백질 30g",
    "subheadline": "달지 않게, 든든하게",
    "sections": [
        {"section_id": "hero", "heading": "하루를 채우는 한 잔", "body": "물만 부어 흔들면 끝납니다.", "bullets": []},
        {"section_id": "features", "heading": "저당 단백질", "body": "당은 덜었습니다.", "bullets": ["고단백 30g"]},
    ],
    "cta": "지금 시작하기",
}  # fmt: skip


def _example(summary: str, role: str, task: str, payload: dict[str, Any]) -> dict[str, Any]:
    return {"summary": summary, "value": {"role": role, "task": task, "mode": "json", "payload": payload}}


_EXAMPLES: Any = {
    "brand": _example(
        "브랜드 요약",
        "brand",
        "brand_summary",
        {"brand": {"name": "프로틴플러스", "industry": "건강식품", "uploaded_materials": []}},
    ),
    "strategist": _example("콘텐츠 기획", "strategist", "content_plan", {"brief": _BRIEF, "product": _PRODUCT}),
    "copywriter": _example(
        "상품 상세 카피",
        "copywriter",
        "product_detail",
        {"brief": _BRIEF, "sections": _SECTIONS, "product": _PRODUCT},
    ),
    "reviewer": _example(
        "카피 검수",
        "reviewer",
        "style_check",
        {"brand": {"name": "프로틴플러스", "tone": "담백하고 믿음직한"}, "product": _PRODUCT, "copy": _COPY},
    ),
}

_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer. As events, where these were asked for: `token` `{text, attempt}` as it is written, "
        "then one `answer` or one `error`.",
        "content": event_content("token", "answer", "error"),
    },
    402: {"model": ErrorBody, "description": "options.budget_usd does not pay for the next call"},
    409: {"model": ErrorBody, "description": "the Idempotency-Key belongs to another request, or to one under way"},
}

TextBody = Annotated[TextRequest, Body(openapi_examples=_EXAMPLES)]


@router.post(
    "/llm/generate",
    operation_id="generate_text",
    summary="Ask a model in a role",
    response_model=LLMAnswer,
    responses=_ANSWERS,
)
async def generate_text(body: TextBody, request: Request, services: ServicesOf, key: IdempotencyKey = None) -> Response:
    """Which model answers, the routing decides; ``options.provider`` and ``options.model`` win over it.

    When ``attempt`` grows, a call has failed and what was streamed before is void. Leaving cancels the call.
    """
    asked = body.asked(request)

    async def call(token: str | None, on_progress: OnProgress | None) -> LLMAnswer:
        return await services.studio.gateways.llm.generate(asked, on_progress)

    return await answered(request, services.once, call, _token, events=body.options.stream or wants_events(request))


@router.post(
    "/llm/fingerprint",
    operation_id="fingerprint_text",
    summary="What decides the answer to a request",
    response_model=FingerprintAnswer,
)
async def fingerprint_text(body: TextBody, request: Request, services: ServicesOf) -> FingerprintAnswer:
    """Asks no model."""
    found = await services.studio.gateways.llm.fingerprint(body.asked(request))
    return FingerprintAnswer(fingerprint=dict(found))


def _token(progress: Progress) -> ServerSentEvent:
    return event("token", {"text": progress.text, "attempt": progress.attempt})
