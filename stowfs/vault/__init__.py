"""Conversations over an object store: open, read, commit, rename, delete, list, collect. Knows paths, not file
handles."""
