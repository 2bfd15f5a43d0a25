"""Packs: folders of actions, which are operators that are external programs."""
