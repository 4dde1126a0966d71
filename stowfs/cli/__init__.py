"""The command line: arguments in, text or JSON out. What it does with conversations is the vault's and the mount's."""
