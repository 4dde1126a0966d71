"""Object stores behind one protocol: `base` says what a store is, the other modules are stores or wrap one."""
