"""The built-in operators: `from gristmill.operators import parse, split`."""

from gristmill.operators.anonymize import anonymize
from gristmill.operators.answer import answer
from gristmill.operators.ask import ask
from gristmill.operators.assign_labels import assign_labels
from gristmill.operators.chunk_quality import chunk_quality
from gristmill.operators.classify import classify
from gristmill.operators.clean import clean, clean_with_model
from gristmill.operators.conversation import conversation
from gristmill.operators.dedup import dedup
from gristmill.operators.dedup_documents import dedup_documents
from gristmill.operators.dedup_images import dedup_images
from gristmill.operators.detect import detect
from gristmill.operators.detect_http import detect_http
from gristmill.operators.detect_onnx import detect_onnx
from gristmill.operators.embed import embed, index
from gristmill.operators.embed_questions import embed_questions
from gristmill.operators.evaluate import evaluate
from gristmill.operators.evaluate_rules import evaluate_rules
from gristmill.operators.extract import extract
from gristmill.operators.filters import filter_chunks, filter_examples
from gristmill.operators.ga_pairs import ga_pairs, pair_chunks
from gristmill.operators.groundedness import groundedness
from gristmill.operators.grounding import check_grounding
from gristmill.operators.image_questions import answer_image, ask_image
from gristmill.operators.judge import judge, take_test
from gristmill.operators.label_tree import label_tree
from gristmill.operators.panel import agreement, panel
from gristmill.operators.parse import parse
from gristmill.operators.rate import rate
from gristmill.operators.read_examples import read_examples
from gristmill.operators.read_images import read_images
from gristmill.operators.reasoning import polish_reasoning, synthesize_reasoning
from gristmill.operators.relate import relate
from gristmill.operators.split import split
from gristmill.operators.templates import questions_from_template
from gristmill.operators.test_items import test_items
from gristmill.operators.topics import distill_questions, read_topics, topics

__all__ = [
    "agreement",
    "anonymize",
    "answer",
    "answer_image",
    "ask",
    "ask_image",
    "assign_labels",
    "check_grounding",
    "chunk_quality",
    "classify",
    "clean",
    "clean_with_model",
    "conversation",
    "dedup",
    "dedup_documents",
    "dedup_images",
    "detect",
    "detect_http",
    "detect_onnx",
    "distill_questions",
    "embed",
    "embed_questions",
    "evaluate",
    "evaluate_rules",
    "extract",
    "filter_chunks",
    "filter_examples",
    "ga_pairs",
    "groundedness",
    "index",
    "judge",
    "label_tree",
    "pair_chunks",
    "panel",
    "parse",
    "polish_reasoning",
    "questions_from_template",
    "rate",
    "read_examples",
    "read_images",
    "read_topics",
    "relate",
    "split",
    "synthesize_reasoning",
    "take_test",
    "test_items",
    "topics",
]
