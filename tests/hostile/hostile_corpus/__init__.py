"""Files that strangers could send: every item is made by code from a seed, and says what it may end in."""

from __future__ import annotations
