"""The model `extractive`: questions out of a text without any language model, key or network.

It finds the sentences that define something ("A lease is the right to finish a task.") and asks for the definition;
from the others it blanks out the most telling term. Every answer and every quote is a piece of the text, so nothing
can be invented, and the same text always gives the same questions.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gristmill.errors import ModelRefused
from gristmill.llm.model import Answer, Binding, Request
from gristmill.llm.sentences import CJK, Sentence, find_sentences
from gristmill.llm.words import COMMON, NOT_IN_A_TERM, PRONOUNS, STARTS_BADLY

BLANK = "_____"
_CLOZE = {"en": 'Fill in the blank: "{}"', "zh": "填空：“{}”", "tr": 'Boşluğu doldurun: "{}"'}
_CLOZE_TEXT = re.compile(r'(?:Fill in the blank: "|填空：“|Boşluğu doldurun: ")(.*)["”]', re.DOTALL)

_DEFINITION = re.compile(
    r"^(?P<article>(?:A|An|The)\s+)?(?P<term>[\w`\"“][\w\-'’`\"”/+#. ]{1,50}?)(?:\s+\([^)]{1,40}\))?\s+"
    r"(?:(?P<verb>is|are)\s+(?:an?|the|one\s+of|any|every)\s|(?P<means>means)\s|"
    r"(?P<refers>refers\s+to|denotes|is\s+defined\s+as|is\s+called)\s)",
)
_DEFINITION_ZH = re.compile(r"^(?P<term>[^，。、：；！？\s的]{2,12}?)(?:是一[种个类项位条座]|是指|指的是)")
_DEFINITION_TR = re.compile(r"^(?P<term>[A-ZÇĞİÖŞÜ][\w\-'’ ]{1,40}?),\s.{10,}(?:dır|dir|dur|dür|tır|tir|tur|tür)\.$")

_UNITS = (
    r"%|percent|per cent|seconds?|minutes?|hours?|days?|weeks?|months?|years?|ms|km|cm|mm|metres?|meters?|kg|grams?|"
    r"tonnes?|tons?|MB|GB|TB|kB|KiB|MiB|GiB|bytes?|bits?|degrees?(?: Celsius| Fahrenheit)?|°C|°F|K|V|W|kW|MW|"
    r"Hz|kHz|MHz|GHz|dollars?|euros?|"
    r"people|times|miles?|feet|inches|litres?|liters?|characters?|pages?|lines?|rows?|saniye|dakika|saat|gün|yıl"
)
_CODE = re.compile(r"`([^`\n]{2,40})`")
_QUOTED = re.compile(r"[“\"「《]([^”\"」》\n]{2,40})[”\"」》]")
_NUMBER = re.compile(rf"(?<![\w.,-])(?:\$|€|£)?\d[\d.,]*\d?(?:\s?(?:million|billion|thousand))?\s?(?:{_UNITS})(?!\w)")
_NUMBER_ZH = re.compile(r"\d[\d.,]*\s?(?:%|年|月|日|天|秒|分钟|小时|公里|米|度|人|个|万|亿|元)+")
_NAME = re.compile(r"(?<=[a-z,;:] )[A-ZÇĞİÖŞÜ][\w-]+(?: (?:(?:of|the|de|von|and) )?[A-ZÇĞİÖŞÜ][\w-]+){0,3}")
_ACRONYM = re.compile(r"\b[A-Z][A-Z0-9]{1,7}\b")
_WORD = re.compile(r"(?<![\w'’-])[^\W\d_]{6,24}(?![\w'’-])")
_RUN_ZH = re.compile(
    r"[^，。、：；！？“”「」《》（）\s的了在和与或是有被把从到对为以及并不也都而且其之于中上下这那一个种]{2,6}"
)
_NOUN = re.compile(
    r"(?:tion|sion|ment|ness|ity|ance|ence|ship|hood|ism|ist|ure|age|ics|logy|graphy|phy|ery|ory|ium|gen|ings?|ers?|ors?|"
    r"sis|eum|oms?|ons?|ants?|ents?)s?$"
)


@dataclass(frozen=True, slots=True)
class _Item:
    """One question with the piece of text that answers it."""

    question: str
    answer: str
    sentence: Sentence
    score: float
    term: str


class ExtractiveModel:
    """Answers the prompts "ask" (fields passage, count, language) and "answer" (fields question, passage).

    Both answers are JSON: a list of {question, quote}, and {answer, quote}, both empty when the passage does not hold
    the answer. Raises `ModelRefused` for any other prompt.
    """

    @property
    def binding(self) -> Binding:
        return Binding(
            spec="extractive", provider="gristmill", model="extractive", parameters={"version": 1}, paid=False
        )

    async def complete(self, request: Request) -> Answer:
        fields = request.fields
        if request.prompt == "ask":
            value: Any = ask(str(fields["passage"]), int(fields.get("count", 3)), str(fields.get("language", "en")))
        elif request.prompt == "answer":
            value = answer(str(fields["question"]), str(fields["passage"]))
        else:
            raise ModelRefused(
                f'the model "extractive" knows the prompts ask and answer, not "{request.prompt or "free text"}"',
                hint='choose a language model, for example "openai:gpt-4.1-mini"',
            )
        return Answer(json.dumps(value, ensure_ascii=False), "extractive")

    async def close(self) -> None:
        return None


def ask(passage: str, count: int, language: str = "en") -> list[dict[str, str]]:
    """At most `count` questions with the sentences that answer them, in the order of the text; [] when none is good."""
    best = sorted(_items(passage, language), key=lambda item: (-item.score, item.sentence.start))
    chosen: list[_Item] = []
    for item in best:
        if len(chosen) == count:
            break
        if item.term.casefold() not in {other.term.casefold() for other in chosen}:
            chosen.append(item)
    chosen.sort(key=lambda item: item.sentence.start)
    return [{"question": item.question, "quote": item.sentence.text} for item in chosen]


def answer(question: str, passage: str) -> Mapping[str, str]:
    """The answer to a question of `ask`, or the sentence nearest to any other question; empty when none is near."""
    cloze = _CLOZE_TEXT.search(question)
    sentences = find_sentences(passage)
    if cloze and BLANK in cloze[1]:
        before, after = cloze[1].split(BLANK, 1)
        for sentence in sentences:
            line = sentence.line
            if line.startswith(before) and line.endswith(after) and len(line) > len(before) + len(after):
                term = line[len(before) : len(line) - len(after)]
                return {"answer": term, "quote": sentence.text}
        return {"answer": "", "quote": ""}
    wanted = " ".join(question.split()).casefold()
    for language in _CLOZE:
        for sentence in sentences:
            found = _definition(sentence, passage, language)
            if found is not None and found[0].casefold() == wanted:
                return {"answer": sentence.text, "quote": sentence.text}
    return _nearest(wanted, sentences)


def _nearest(question: str, sentences: list[Sentence]) -> Mapping[str, str]:
    words = _content(question)
    best = max(sentences, key=lambda sentence: len(words & _content(sentence.text.casefold())), default=None)
    shared = len(words & _content(best.text.casefold())) if best is not None else 0
    if best is None or shared < 2 or shared * 2 < len(words):
        return {"answer": "", "quote": ""}
    return {"answer": best.text, "quote": best.text}


def _content(text: str) -> set[str]:
    """Words of four letters and more, and pairs of CJK characters."""
    cjk = CJK.findall(text)
    pairs = {first + second for first, second in itertools.pairwise(cjk)}
    return pairs | {word for word in re.findall(r"[^\W\d_]{4,}", text) if word not in STARTS_BADLY | COMMON}


def _items(passage: str, language: str) -> list[_Item]:
    language = language.split("-")[0]
    language = language if language in _CLOZE else "en"
    frequency = Counter(word.casefold() for word in re.findall(r"[^\W\d_]{3,}", passage))
    items: list[_Item] = []
    seen: set[str] = set()
    for sentence in find_sentences(passage):
        if sentence.line in seen:  # a header that every page repeats
            continue
        seen.add(sentence.line)
        defined = _definition(sentence, passage, language)
        if defined is not None:
            question, term = defined
            items.append(_Item(question, sentence.text, sentence, 10.0 + _fitness(sentence), term))
            continue
        if _first_word(sentence) in PRONOUNS:
            continue
        gap = _gap(sentence, frequency)
        if gap is not None:
            start, end, weight = gap
            line = sentence.line
            blanked = f"{line[:start]}{BLANK}{line[end:]}"
            score = weight + _fitness(sentence)
            items.append(_Item(_CLOZE[language].format(blanked), line[start:end], sentence, score, line[start:end]))
    return items


def _fitness(sentence: Sentence) -> float:
    """Up to 2 points for a sentence that is easy to read on its own."""
    length = len(sentence.line) * (3 if sentence.cjk else 1)
    return (1.0 if 60 <= length <= 200 else 0.0) + (0.0 if _first_word(sentence) in STARTS_BADLY else 1.0)


def _first_word(sentence: Sentence) -> str:
    return sentence.line.split()[0].casefold().strip('`"“,')


def _definition(sentence: Sentence, passage: str, language: str) -> tuple[str, str] | None:
    """The question for a sentence that says what something is, and the term."""
    line = sentence.line
    if sentence.cjk:
        found = _DEFINITION_ZH.match(line)
        return (f"什么是{found['term']}？", found["term"]) if found else None
    if language == "tr":
        found = _DEFINITION_TR.match(line)
        if found is None or len(found["term"].split()) > 3:
            return None
        return f"{found['term']} nedir?", found["term"]
    found = _DEFINITION.match(line)
    if found is None:
        return None
    term = found["term"].strip()
    words = [word.strip("`\"“”'").casefold() for word in term.split()]
    if len(words) > 5 or words[0] in STARTS_BADLY or NOT_IN_A_TERM & set(words) or len(term) < 2:
        return None
    article = (found["article"] or "").strip().lower()
    if not article and words[0].endswith("ing") and len(words) > 1:  # "Deleting a row is the ..." defines nothing
        return None
    shown = f"{article} {term}" if article else _as_inside_a_sentence(term, passage)
    if found["means"]:
        return f"What does {shown} mean?", term
    return f"What {found['verb'] or 'is'} {shown}?", term


def _as_inside_a_sentence(term: str, passage: str) -> str:
    """A term that begins its sentence, spelled as elsewhere: "Heartbeats" becomes "heartbeats", "PostgreSQL" stays."""
    first = term.split()[0]
    if not first[0].isupper() or any(sign.isupper() for sign in first[1:]):
        return term
    if re.search(rf"(?<=[a-z,;] ){re.escape(first)}\b", passage):
        return term
    lower = first[0].lower() + first[1:]
    plural = first.endswith("s") and len(term.split()) == 1
    if plural or re.search(rf"\b{re.escape(lower)}\b", passage):
        return lower + term[len(first) :]
    return term


def _gap(sentence: Sentence, frequency: Counter[str]) -> tuple[int, int, float] | None:
    """Where the most telling term of the sentence stands (on one line), and what it is worth."""
    line = sentence.line
    candidates: list[tuple[float, int, int]] = []

    def offer(match: re.Match[str], group: int, weight: float) -> None:
        start, end = match.span(group)
        term = match.group(group)
        # Shown elsewhere in the sentence it would give the answer away; at the very start it leaves nothing to read.
        if line.casefold().count(term.casefold()) == 1 and term.strip() == term and len(term) * 2 < len(line):
            candidates.append((weight - (1.0 if start == 0 else 0.0), start, end))

    for pattern, group, weight in ((_CODE, 1, 6.0), (_QUOTED, 1, 5.0), (_NUMBER, 0, 5.5), (_NUMBER_ZH, 0, 5.0)):
        for match in pattern.finditer(line):
            offer(match, group, weight)
    for match in _NAME.finditer(line):
        offer(match, 0, 5.2 if " " in match.group() else 4.5)
    for match in _ACRONYM.finditer(line):
        offer(match, 0, 4.0)
    for match in (_RUN_ZH if sentence.cjk else _WORD).finditer(line):
        word = match.group()
        if sentence.cjk or (word.casefold() not in COMMON | STARTS_BADLY and not word.endswith("ly")):
            offer(match, 0, _word_weight(word, match.start(), frequency, sentence.cjk))
    if not candidates:
        return None
    weight, start, end = max(candidates, key=lambda candidate: (candidate[0], -candidate[1]))
    return start, end, weight


def _word_weight(word: str, start: int, frequency: Counter[str], cjk: bool) -> float:
    """A long word that sounds like a noun and is what the passage is about, at most 3.9."""
    if cjk:
        return 1.0 + 0.3 * len(word)
    noun = 1.0 if _NOUN.search(word) else 0.0
    theme = 0.4 * min(frequency[word.casefold()] - 1, 2)
    return min(3.9, 0.5 + 0.1 * min(len(word), 12) + noun + theme + (0.0 if start == 0 else 0.2))
