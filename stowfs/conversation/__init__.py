"""Formats of conversations, where to cut them, and what is known about them: pure functions over bytes, no I/O."""
