"""The API: `asgi(app)` is the whole of it as an application of its own, to be mounted or served."""

from gristmill.api.application import asgi

__all__ = ["asgi"]
