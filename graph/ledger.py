"""The effect ledger: what every call of a run came to, written before its agent counts as done.

LangGraph asks an agent again whose result it had not stored when the process died. A call whose answer stands here is
not made again then; an image whose order stands here without an answer is asked for by the key that it was ordered
with, so it is found where its service still has it (the key of an order is this very one).

A call is known by run, agent, the graph's step, its ordinal within the agent's execution, and the digest of all that
decides its answer (:mod:`routing.fingerprints`): one whose prompt, options or routing changed meanwhile is another.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter

from graph.database import Database
from graph.sqlite import to_its_end
from graph.store import RunRecord
from providers.errors import StorageError
from routing.contracts import ImageAnswer, ImageRequest, LLMAnswer, LLMRequest
from routing.fingerprints import Fingerprint, key_of

__all__ = ["Effect", "Effects", "Ledger"]

Request = LLMRequest | ImageRequest
Answer = LLMAnswer | ImageAnswer
A = TypeVar("A", LLMAnswer, ImageAnswer)
_REQUESTS: dict[str, TypeAdapter[Any]] = {"chat": TypeAdapter(LLMRequest), "image": TypeAdapter(ImageRequest)}
_ANSWERS: dict[str, TypeAdapter[Any]] = {"chat": TypeAdapter(LLMAnswer), "image": TypeAdapter(ImageAnswer)}

_READ = "SELECT node, ordinal, form, body FROM effects WHERE thread_id = ? ORDER BY node, ordinal, fingerprint"
_DELETE = "DELETE FROM effects WHERE thread_id = ? AND node = ? AND ordinal = ? AND fingerprint = ?"
_WRITE = """
INSERT INTO effects (thread_id, node, ordinal, fingerprint, form, body) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (thread_id, node, ordinal, fingerprint) DO UPDATE SET form = excluded.form, body = excluded.body
"""


@dataclass(frozen=True)
class Effect:
    """One call: ``answer`` is None while nobody knows what came of it.

    Attributes:
        run_id: whose call it was; a rerun has those of its parent's that it keeps.
        node: the agent.
        step: LangGraph's, by which a revision's call differs from the first one; the same when the run is resumed.
        ordinal: how many calls the agent's execution had made before, 0 for the first.
        fingerprint: what decided the answer.
    """

    run_id: str
    node: str
    step: int
    ordinal: int
    fingerprint: Fingerprint
    request: Request
    answer: Answer | None = None

    @property
    def key(self) -> str:
        return key_of(self.step, self.fingerprint)

    def to_plain(self) -> dict[str, Any]:
        """JSON's own types."""
        return {
            "run_id": self.run_id,
            "step": self.step,
            "fingerprint": dict(self.fingerprint),
            "kind": "image" if isinstance(self.request, ImageRequest) else "chat",
            "request": self.request.model_dump(mode="json"),
            "answer": self.answer.model_dump(mode="json") if self.answer else None,
        }

    @classmethod
    def from_plain(cls, node: str, ordinal: int, body: dict[str, Any]) -> Effect:
        """Raises ValueError, LookupError or TypeError for what :meth:`to_plain` did not write."""
        request, answer = _REQUESTS[body["kind"]], _ANSWERS[body["kind"]]
        return cls(
            run_id=body["run_id"],
            node=node,
            step=body["step"],
            ordinal=ordinal,
            fingerprint=body["fingerprint"],
            request=request.validate_python(body["request"]),
            answer=answer.validate_python(body["answer"]) if body["answer"] else None,
        )


class Ledger:
    """The effects of all runs, in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, run_id: str) -> list[Effect]:
        """Every effect of the run.

        Raises:
            StorageError: the database cannot be read, or a row of it.
        """
        rows = await self._database.read(_READ, (run_id,))
        try:
            sealed = [(node, ordinal, self._opened(form, body)) for node, ordinal, form, body in rows]
            bodies = await self._database.texts.unfold(run_id, [body for *_, body in sealed])
            return [
                Effect.from_plain(node, ordinal, body) for (node, ordinal, _), body in zip(sealed, bodies, strict=True)
            ]
        except (ValueError, LookupError, TypeError) as exc:
            raise StorageError(
                f"the ledger of run {run_id!r} cannot be read: {exc}",
                hint="was it written by a newer version? a rerun makes what is missing: sparklio rerun RUN --from NODE",
            ) from exc

    async def open(self, run_id: str) -> Effects:
        return Effects(self, run_id, await self.load(run_id))

    async def save(self, run_id: str, effects: Iterable[Effect]) -> None:
        """Write them as this run's; each replaces the one of the same key."""
        rows = [(effect, await self._database.texts.fold(run_id, effect.to_plain())) for effect in effects]
        await self._database.write(
            *((_WRITE, (run_id, effect.node, effect.ordinal, effect.key, *self._sealed(body))) for effect, body in rows)
        )

    def _sealed(self, body: dict[str, Any]) -> tuple[str, bytes]:
        return self._database.vault.encrypt(json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass"))

    def _opened(self, form: str, body: bytes) -> Any:
        return json.loads(self._database.vault.decrypt(form, body).decode("utf-8", "surrogatepass"))

    async def effects_of(self, record: RunRecord) -> Effects:
        """The run's, with those of its parent's that a rerun keeps: its booking may have died before it had them."""
        effects = await self.load(record.run_id)
        kept = {key for call in record.inputs.get("calls", []) for key in call.get("effects", [])}
        missing = kept - {effect.key for effect in effects}
        if missing and record.parent is not None:
            effects += await self.adopt(record.run_id, record.parent.run_id, missing)
        return Effects(self, record.run_id, effects)

    async def drop(self, run_id: str, effect: Effect) -> None:
        await self._database.write((_DELETE, (run_id, effect.node, effect.ordinal, effect.key)))

    async def adopt(self, run_id: str, parent_id: str, keys: Collection[str]) -> list[Effect]:
        """Give a rerun the effects of its parent's calls that it keeps, so that it needs no parent any more."""
        kept = [effect for effect in await self.load(parent_id) if effect.key in keys]
        await self.save(run_id, kept)
        return kept


class Effects:
    """One run's effects while it runs."""

    def __init__(self, ledger: Ledger, run_id: str, known: Iterable[Effect]) -> None:
        self._ledger = ledger
        self._run_id = run_id
        self._known = {(effect.node, effect.ordinal, effect.key): effect for effect in known}

    def __iter__(self) -> Iterator[Effect]:
        return iter(self._known.values())

    async def once(
        self,
        node: str,
        step: int,
        ordinal: int,
        fingerprint: Fingerprint,
        request: Request,
        make: Callable[[], Awaitable[A]],
    ) -> A:
        """The recorded answer to the very same call; else what ``make`` answers, recorded.

        The order of an image is recorded too, before it is given. Who is cancelled while an answer is being recorded
        still waits for that, for it was paid.
        """
        effect = Effect(self._run_id, node, step, ordinal, fingerprint, request)
        known = self._known.get((node, ordinal, effect.key))
        if known is not None and known.answer is not None:
            return cast("A", known.answer)
        if isinstance(request, ImageRequest):
            await self._begin(effect)
        answer = await make()
        await to_its_end(self._save(replace(effect, answer=answer)))
        return answer

    async def _begin(self, order: Effect) -> None:
        """Note the order; one before it that was never answered, because it was another, is nobody's any more."""
        place = (order.node, order.step, order.ordinal)
        for other in [other for other in self if (other.node, other.step, other.ordinal) == place and not other.answer]:
            await self._ledger.drop(self._run_id, other)
            del self._known[other.node, other.ordinal, other.key]
        await self._save(order)

    async def _save(self, effect: Effect) -> None:
        await self._ledger.save(self._run_id, [effect])
        self._known[effect.node, effect.ordinal, effect.key] = effect
