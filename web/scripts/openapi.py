"""Prints the OpenAPI document of the API as it is in this checkout. No server and no database are needed."""

from __future__ import annotations

import json
import sys

from gristmill import App
from gristmill.api.application import asgi

json.dump(asgi(App()).openapi(), sys.stdout, indent=1, sort_keys=True, ensure_ascii=False)
sys.stdout.write("\n")
