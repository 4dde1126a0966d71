"""stowfs: a file system for LLM conversations over an object store."""

__version__ = "0.1.0"
