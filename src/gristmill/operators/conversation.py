"""A conversation about a chunk that begins with a question: one call for each message, or one for the whole.

Every message is a call of its own in the ledger, so a conversation whose worker is killed in its middle is taken up
where it stopped: what was said is there already, and is not paid again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field
from typing_extensions import TypeAliasType

from gristmill.data.kinds import Chunk, Conversation, Question, Turn
from gristmill.errors import ModelError
from gristmill.llm.model import Answer, Message
from gristmill.llm.outcomes import outcome_of
from gristmill.llm.responses import clean_text
from gristmill.operators.answer_forms import refuse_picture
from gristmill.operators.operator import Context, operator
from gristmill.operators.reasoning import Reasoning, reasoning_of
from gristmill.operators.wording import question_key

# Under a name of its own, so that the bounds survive typing.get_type_hints, which drops a bare Annotated.
Rounds = TypeAliasType("Rounds", Annotated[int, Field(ge=1, le=20)])
UNSAID = {  # what stands in a prompt for what the user leaves open: scenario, role_a, role_b
    "en": ("an ordinary conversation", "somebody who wants to learn", "an assistant who knows the subject"),
    "zh": ("一次普通的交谈", "一位想要学习的人", "一位熟悉这个主题的助手"),
    "tr": ("sıradan bir konuşma", "öğrenmek isteyen biri", "konuyu bilen bir yardımcı"),
}


class NextMessage(BaseModel):
    """What the one who asks says next; blank or null when there is nothing left to ask."""

    message: str | None


class Exchange(BaseModel):
    question: str
    answer: str


class WholeTalk(BaseModel):
    """The answer to the first question, and the exchanges behind it."""

    answer: str
    further: list[Exchange]


@dataclass(slots=True)
class _Talk:
    """A conversation as it grows. `offered` are the fields of its prompts."""

    ctx: Context
    offered: dict[str, str]
    turns: list[Turn]
    reasoning: Reasoning

    def says(self, role: Literal["user", "assistant"], content: str, thought: str | None = None) -> None:
        self.turns.append(Turn(role=role, content=content.strip(), reasoning=thought))

    async def reply(self) -> None:
        """The assistant's next message. It sees the passage and the whole talk."""
        spoken = [Message(turn.role, turn.content) for turn in self.turns if turn.role != "system"]
        prompt = self.ctx.prompt("conversation_reply", **self.offered).going_on(*spoken)
        asked: tuple[str, Answer] = await self.ctx.model.answer(prompt, str)
        self.says("assistant", asked[0], reasoning_of(asked[1], self.reasoning)[0])

    async def ask(self) -> bool:
        """The user's next message; False when there is nothing left to ask, or it was asked before."""
        names = {"user": self.offered["role_a"], "assistant": self.offered["role_b"]}
        history = "\n\n".join(f"{names[turn.role]}: {turn.content}" for turn in self.turns if turn.role in names)
        prompt = self.ctx.prompt("conversation_ask", **self.offered, history=history)
        given: NextMessage = await self.ctx.model.generate(prompt, NextMessage)
        message = (given.message or "").strip()
        if not message or self.knows(message):
            self.ctx.notes["ended"] = "the same was asked again" if message else "nothing was left to ask"
            return False
        self.says("user", message)
        return True

    def knows(self, question: str) -> bool:
        key = question_key(question)
        return any(turn.role == "user" and question_key(turn.content) == key for turn in self.turns)


@operator(
    "conversation", version=1, pool="model", model=True, timeout=1800,
    prompts=("conversation_reply", "conversation_ask", "conversation_whole"),
)  # fmt: skip
async def conversation(
    question: Question, chunk: Chunk | None, ctx: Context, mode: Literal["per_turn", "single_call"] = "per_turn",
    rounds: Rounds = 3, scenario: str = "", role_a: str = "", role_b: str = "", system_prompt: str = "",
    reasoning: Reasoning = "keep",
) -> Conversation:  # fmt: skip
    """A talk of at most `rounds` exchanges (default 3, 1 to 20) that the question begins.

    `mode` is "per_turn" (default; 2 * rounds - 1 calls, each kept by itself) or "single_call" (one call writes it all).
    `scenario`, `role_a` (who asks) and `role_b` (who answers) shape the talk; `system_prompt` is told to the one who
    answers and becomes the first turn. The chunk is before the model in every turn; for a question
    without one the talk rests on what the model knows.

    It may end earlier: when nothing is left to ask (`ctx.notes["ended"]`), or when a later message cannot be had; then
    what was said is kept and the outcome is "degraded". Raises what the model raises before the first answer, and where
    asking again later can help; `InputError` T222 for a question about a picture.
    """
    refuse_picture(question)
    open_words = UNSAID.get(ctx.language.split("-")[0], UNSAID["en"])
    offered = {
        "scenario": scenario or open_words[0], "role_a": role_a or open_words[1], "role_b": role_b or open_words[2],
        "instructions": system_prompt, "passage": chunk.text if chunk else "", "language": ctx.language,
    }  # fmt: skip
    first = [Turn(role="system", content=system_prompt)] if system_prompt else []
    talk = _Talk(ctx, offered, first, reasoning)
    talk.says("user", question.text)
    await (_in_one(talk, rounds) if mode == "single_call" else _by_turns(talk, rounds))
    made = sum(turn.role == "assistant" for turn in talk.turns)
    if made < rounds:
        ctx.notes["rounds"] = made
    return Conversation(
        turns=tuple(talk.turns), rounds=rounds, scenario=scenario, model=ctx.model.name, label=question.label
    )


async def _by_turns(talk: _Talk, rounds: int) -> None:
    await talk.reply()
    for _ in range(rounds - 1):
        whole = len(talk.turns)
        try:
            if not await talk.ask():
                return
            await talk.reply()
        except ModelError as error:
            outcome = outcome_of(error)
            if outcome == "failed":  # a wrong key or an unknown model: that can be put right
                raise
            del talk.turns[whole:]  # a question without an answer is no exchange
            talk.ctx.notes["degraded"] = clean_text(f"{outcome}: {error.message}")[:600]
            return


async def _in_one(talk: _Talk, rounds: int) -> None:
    offered: dict[str, Any] = {**talk.offered, "question": talk.turns[-1].content, "further": str(rounds - 1)}
    prompt = talk.ctx.prompt("conversation_whole", **offered)
    whole: WholeTalk = await talk.ctx.model.generate(prompt, WholeTalk)
    talk.says("assistant", whole.answer)
    for exchange in whole.further[: rounds - 1]:
        if not exchange.question.strip() or not exchange.answer.strip() or talk.knows(exchange.question):
            talk.ctx.notes["ended"] = "an exchange was blank, or asked the same again"
            return
        talk.says("user", exchange.question)
        talk.says("assistant", exchange.answer)
