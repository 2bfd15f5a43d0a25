"""Routes by theme. Each module has a `router` (below /api), some an `outside` (not below it); all are included."""
