"""The local directory of one mount: journal and spool (state), index and segments (cache)."""
