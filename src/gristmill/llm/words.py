"""Words that tell the extractive model what not to ask for, in English."""

from __future__ import annotations

_POINTING = """
it its this that these those they their them he she his her him we our you your i there here what when where which
who why how if while although because since as unless until both each such another one some many most all any
however therefore thus hence moreover furthermore also then so but and or nor yet instead otherwise finally first
second third next in on at by for from with without under over after before during among between no not nothing
"""
_PRONOUNS = """
it its this that these those they their them he she his her him such there here both each another one
"""
_NO_TERM = """
is are was were be has have had can may must will should do does did that which who when where if and or but not
only main first last best worst same goal reason problem point result question answer difference rule idea
"""
_PLAIN = """
people things another because between through during without against around before within however although important
different possible several various certain usually always together example examples number amount following
including according special general common similar simple necessary available whether themselves further longer
larger smaller higher better almost enough already become becomes became called itself should something someone
anything everything nothing others either neither rather therefore instead anyone everyone
"""

STARTS_BADLY = frozenset(_POINTING.split())  # a sentence that starts with one of these does not stand on its own
PRONOUNS = frozenset(_PRONOUNS.split())  # a sentence that starts with one of these speaks of the one before it
NOT_IN_A_TERM = frozenset(_NO_TERM.split())  # what holds one of these is not the name of a thing
COMMON = frozenset(_PLAIN.split())  # too common to be worth a gap
