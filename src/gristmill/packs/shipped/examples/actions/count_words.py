"""Reads a document with a chunk, prints how many words it has."""

import json
import sys

told = json.load(sys.stdin)
print(json.dumps({"words": len(told["input"]["body"]["text"].split())}))
