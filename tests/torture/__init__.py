"""Torture: real mounts under a mixed workload, with daemons killed and stopped and the store going away.

`python -m tests.torture` (scripts/torture) runs it. Workers (`worker`) write down every operation before and after it
(`history`); faults (`faults`) happen all along; when everything is over, the oracle judges from the histories whether
what was read at any time is what may have been there.
"""
