"""The commands, one module a family; `stowfs.cli.main` imports the one that is asked for."""
