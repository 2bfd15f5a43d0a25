"""Reads a document with parameters and a chunk, prints one chunk for each long enough sentence."""

import json
import re
import sys

told = json.load(sys.stdin)
chunk = told["input"]["body"]
ordinal = 0
for found in re.finditer(r"\S[^.!?]*[.!?]", chunk["text"]):
    if len(found[0]) >= told["parameters"]["least"]:
        start = chunk["start"] + found.start()
        sentence = {**chunk, "text": found[0], "ordinal": ordinal, "start": start, "end": start + len(found[0])}
        print(json.dumps(sentence))
        ordinal += 1
