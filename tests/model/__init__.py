"""An explicit-state model check of the segment record and commit protocol."""
