"""Scores of an example without any model: what can be counted."""

from __future__ import annotations

import re

from gristmill.data.kinds import Chunk, Evaluation, Example
from gristmill.operators.evaluate import evaluation_of
from gristmill.operators.operator import Context, operator
from gristmill.operators.rubric import Rubric, read_rubric
from gristmill.operators.wording import fold, is_ideograph, numbers, words

SHORTEST, LONGEST = 3, 400  # words of an answer that are worth full marks
_REFUSALS = re.compile(
    r"\b(?:i (?:can not|cannot|can't|am unable|am not able|do not know|don't know)|as an ai|i'm sorry|i am sorry|"
    r"the (?:text|passage|context|document) does(?:n't| not) (?:say|mention|contain|provide|give|specify)|"
    r"not (?:mentioned|specified|stated|provided) in the (?:text|passage|context|document)|"
    r"üzgünüm|yanıtlayamam|cevaplayamam|bilmiyorum|"
    r"(?:metinde|parçada|bağlamda) (?:belirtilmem|geçmiyor|yer almıyor|yok))"
    r"|(?:作为一个?(?:ai|人工智能)|抱歉|对不起|我(?:无法|不能|不知道)"
    r"|(?:文中|段落|原文|上下文)(?:中)?(?:没有|未)(?:提到|提及|说明|包含|给出))"
)
_SCRIPTS = {
    "latin": "a-z\u00df-\u024f\u1e00-\u1eff", "cyrillic": "\u0400-\u052f", "greek": "\u0370-\u03ff",
    "arabic": "\u0600-\u06ff", "hebrew": "\u0590-\u05ff", "hangul": "\uac00-\ud7af", "kana": "\u3041-\u30ff",
    "thai": "\u0e00-\u0e7f", "devanagari": "\u0900-\u097f",
}  # fmt: skip
_OF_SCRIPT = {name: re.compile(f"[{letters}]") for name, letters in _SCRIPTS.items()}


@operator("evaluate_rules", version=1)
async def evaluate_rules(example: Example, chunk: Chunk | None, ctx: Context) -> Evaluation:
    """Scores from 0 to 5 for what needs no judge, by the rubric "rules":

    `length` (an answer of 3 to 400 words), `language` (question and answer in one script), `refusal` (the answer is
    none), and beside a chunk `overlap` (the words of the answer that stand in it, or in the question) and `numbers`
    (those of the answer that do). They find what is broken, not what is wrong.
    """
    rubric: Rubric = read_rubric("rules")
    answer = words(example.answer)
    shares = {
        "length": 1.0 if example.answer_type else _fitting(len(answer)),
        "language": _same_script(example.question, example.answer),
        "refusal": 0.0 if _REFUSALS.search(fold(example.answer)) else 1.0,
    }
    if chunk is not None:
        known = words(f"{chunk.text}\n{' '.join(chunk.heading_path)}\n{example.question}")
        shares["overlap"] = _share([word for word in answer if len(word) > 3 or is_ideograph(word)], set(known))
        shares["numbers"] = _share(list(numbers(answer)), set(numbers(known)))
    span = rubric.scale.most - rubric.scale.least
    scores = {name: rubric.scale.least + span * share for name, share in shares.items()}
    return evaluation_of(example, rubric, scores, judge="rules", source=chunk is not None)


def _fitting(count: int) -> float:
    if count < SHORTEST:
        return count / SHORTEST
    return min(1.0, LONGEST / count)


def _share(wanted: list[str], known: set[str]) -> float:
    """How much of it is known; all of nothing."""
    return sum(one in known for one in wanted) / len(wanted) if wanted else 1.0


def _same_script(question: str, answer: str) -> float:
    asked, given = _script(question), _script(answer)
    return 1.0 if "" in (asked, given) or asked == given else 0.0


def _script(text: str) -> str:
    """The script of most of the letters; "" where there are none. Kana makes a text Japanese."""
    folded = fold(text)
    counted = {name: len(pattern.findall(folded)) for name, pattern in _OF_SCRIPT.items()}
    counted["han"] = 2 * sum(map(is_ideograph, folded)) - 2 * counted["kana"]
    if counted["kana"]:
        return "kana"
    best = max(counted, key=lambda name: counted[name])
    return best if counted[best] else ""
