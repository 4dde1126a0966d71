"""The FUSE file system over a vault. Knows inodes, handles and the kernel's caches, and nothing of how things are
stored."""
