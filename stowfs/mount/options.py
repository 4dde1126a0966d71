"""The options of a mount, and how `-o a,b=c` says them."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

from stowfs.config import GIB, KIB, MIB, TIB, FlushOptions, HotTierOptions, StoreOptions, VaultOptions
from stowfs.durations import parse_duration
from stowfs.errors import UsageError
from stowfs.mount.local_names import DEFAULT

ENTRY_TIMEOUT = 60.0
"""Seconds for which the kernel believes that a name stands for an inode. Long, because nothing wrong is done on the
strength of it: OPEN of an inode that its path does not show any more answers ESTALE, on which the kernel looks the
name up again, and so does GETATTR where the path shows nothing or something of another type; else it tells what the
path shows. The one exception is a file that became a directory elsewhere, and is walked through before it is looked
at."""

ATTRIBUTE_TIMEOUT = 1.0
"""Seconds for which the kernel believes attributes: how old the answer of a stat may be. Walking through a tree then
costs one request to the store for each directory and second; an open asks in any case."""

NOISE = frozenset(
    (
        *("defaults", "async", "nodev", "nosuid", "default_permissions"),
        *("auto", "noauto", "user", "nouser", "users", "owner", "group", "nofail", "_netdev"),
        *("atime", "noatime", "relatime", "norelatime", "strictatime", "nostrictatime"),
        *("diratime", "nodiratime", "lazytime", "nolazytime"),
    )
)
"""Options of mount(8) that say what is done anyway (no devices, no set-user-ID programs, permissions checked by the
kernel) or that mean nothing here (reading does not change the time of access)."""

NOISE_PREFIXES = ("x-", "comment=", "user=", "fsname=", "subtype=", "user_id=", "group_id=", "max_read=", "rootmode=")
"""What fstab may hold for other programs, and what mount(8) takes from the kernel's own list for a remount."""

LAST_ID = (1 << 32) - 2
"""The last number of a user or group: the one after it means "nobody in particular" to the kernel."""

UNITS = {"": 1, "k": KIB, "m": MIB, "g": GIB, "t": TIB}


@dataclass(frozen=True, slots=True)
class MountOptions:
    """How to mount. Times in seconds, sizes in bytes; None leaves the default of the layer below."""

    read_only: bool = False
    allow_other: bool = False
    no_exec: bool = False
    # Extended attributes: each write then costs one more question of the kernel.
    xattr: bool = False
    revalidate: float | None = None
    attribute_timeout: float = ATTRIBUTE_TIMEOUT
    # How long an operation may try to reach the store before it is an error.
    timeout: float | None = None
    # When an O_CREAT|O_EXCL finds out that another host was first: at its close, or, for one more request, in the open.
    exclusive: Literal["open", "close"] = "close"
    # Seconds after which new content expires; None: it does not.
    lifetime: float | None = None
    cache_size: int | None = None
    memory_cache: int | None = None
    # What is shown instead of the owner, the group and the permissions that are stored (a mask takes bits away).
    uid: int | None = None
    gid: int | None = None
    umask: int | None = None
    # How the store is reached, as the options of the command line of the same names.
    endpoint: str | None = None
    region: str | None = None
    profile: str | None = None
    # Patterns of names of new files that are kept out of the store.
    local: tuple[str, ...] = DEFAULT
    # Changes a mount that is there.
    remount: bool = False
    # A file to which one line is appended for each operation.
    access_log: str | None = None
    # Where a close makes its changes durable: in the store (sync) or on this host first (async).
    commit: Literal["sync", "async"] = "sync"
    flush_delay: float | None = None
    backlog_size: int | None = None
    backlog_count: int | None = None

    def for_vault(self) -> VaultOptions:
        """The part that concerns the vault."""
        default = VaultOptions()
        return replace(
            default,
            read_only=self.read_only,
            revalidate=default.revalidate if self.revalidate is None else self.revalidate,
            deadline=default.deadline if self.timeout is None else self.timeout,
            memory_cache_size=default.memory_cache_size if self.memory_cache is None else self.memory_cache,
            asynchronous=self.commit == "async",
            flush=self._for_flusher(),
            # One that waits for each commit has no others to put together with it.
            bundles=self.commit == "async",
        )

    def _for_flusher(self) -> FlushOptions:
        default = FlushOptions()
        return replace(
            default,
            delay=default.delay if self.flush_delay is None else self.flush_delay,
            size_limit=default.size_limit if self.backlog_size is None else self.backlog_size,
            count_limit=default.count_limit if self.backlog_count is None else self.backlog_count,
        )

    def for_hot_tier(self) -> HotTierOptions:
        """The part that concerns the hot tier."""
        options = HotTierOptions()
        return options if self.cache_size is None else replace(options, segment_cache_size=self.cache_size)

    def for_store(self, options: StoreOptions) -> StoreOptions:
        """`options`, with the part of these that concerns the store."""
        return replace(
            options,
            endpoint=self.endpoint or options.endpoint,
            region=self.region or options.region,
            profile=self.profile or options.profile,
            deadline=options.deadline if self.timeout is None else self.timeout,
        )

    def effective(self) -> dict[str, object]:
        """All options by name, with the defaults of every layer, and without what is nobody's business."""
        vault, hot = self.for_vault(), self.for_hot_tier()
        resolved = replace(
            self,
            revalidate=vault.revalidate,
            timeout=vault.deadline,
            memory_cache=vault.memory_cache_size,
            cache_size=hot.segment_cache_size,
            flush_delay=vault.flush.delay,
            backlog_size=vault.flush.size_limit,
            backlog_count=vault.flush.count_limit,
            endpoint=None if self.endpoint is None else _without_credentials(self.endpoint),
        )
        fields = {**_FLAGS, **{name: field for name, (field, _) in _VALUES.items()}}
        shown = {name: getattr(resolved, field) for name, field in fields.items() if name != "remount"}
        shown["local"] = ":".join(self.local)
        shown["umask"] = None if self.umask is None else f"{self.umask:03o}"
        return shown


def parse_options(arguments: Iterable[str]) -> MountOptions:
    """The options in the arguments of `-o`, each a list with commas; what comes later counts. Raises `UsageError`."""
    return MountOptions(**given_options(arguments))


def given_options(arguments: Iterable[str]) -> dict[str, Any]:
    """As `parse_options`, but only the fields that were given."""
    given: dict[str, Any] = {}
    for item in _items(arguments):
        name, equals, value = item.partition("=")
        if item in NOISE or item.startswith(NOISE_PREFIXES):
            continue
        if item in _OPPOSITES:
            given[_OPPOSITES[item]] = False
        elif not equals and name in _FLAGS:
            given[_FLAGS[name]] = True
        elif equals and name in _VALUES:
            field, read = _VALUES[name]
            given[field] = read(name, value)
        elif name in _FLAGS or name in _VALUES:
            raise UsageError(f"mount option {name} takes {'a value: ' if name in _VALUES else 'no value, not '}{item}")
        else:
            known = ", ".join(sorted([*_FLAGS, *(f"{name}=…" for name in _VALUES)]))
            raise UsageError(f"unknown mount option {item!r}; there are {known}")
    return given


def without_unknown(arguments: Iterable[str]) -> list[str]:
    """The options in the arguments of `-o` but those that stowfs does not have."""
    return [item for item in _items(arguments) if _is_known(item)]


def _is_known(item: str) -> bool:
    known = {*NOISE, *_OPPOSITES, *_FLAGS, *_VALUES, "commit"}
    return item.partition("=")[0] in known or item.startswith(NOISE_PREFIXES)


def _items(arguments: Iterable[str]) -> Iterator[str]:
    for argument in arguments:
        yield from filter(None, (item.strip() for item in argument.split(",")))


def _seconds(name: str, value: str) -> float:
    if not re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value, re.ASCII):
        raise UsageError(f"mount option {name}={value}: not a number of seconds")
    return float(value)


def _duration(name: str, value: str) -> float:
    try:
        return parse_duration(value)
    except UsageError as error:
        raise UsageError(f"mount option {name}: {error}") from None


def _size(name: str, value: str) -> int:
    match = re.fullmatch(r"(\d{1,12})([kmgt]?)(i?b)?", value.lower(), re.ASCII)
    if match is None:
        raise UsageError(f"mount option {name}={value}: not a size; write bytes, or for example 512M or 4G")
    return int(match[1]) * UNITS[match[2]]


def _count(name: str, value: str) -> int:
    if not re.fullmatch(r"\d{1,9}", value, re.ASCII):
        raise UsageError(f"mount option {name}={value}: not a number")
    return int(value)


def _either(first: str, second: str) -> Callable[[str, str], str]:
    def choose(name: str, value: str) -> str:
        if value not in (first, second):
            raise UsageError(f"mount option {name}={value}: it is either {name}={first} or {name}={second}")
        return value

    return choose


def _number(name: str, value: str) -> int:
    if not re.fullmatch(r"\d{1,10}", value, re.ASCII) or int(value) > LAST_ID:
        raise UsageError(f"mount option {name}={value}: not the number of a user or group")
    return int(value)


def _mask(name: str, value: str) -> int:
    if not re.fullmatch(r"[0-7]{1,4}", value, re.ASCII) or int(value, 8) > 0o777:
        raise UsageError(f"mount option {name}={value}: not a mask of permissions, in octal, for example 022")
    return int(value, 8)


def _absolute(name: str, value: str) -> str:
    if not value.startswith("/"):
        raise UsageError(f"mount option {name}={value}: not an absolute path")
    return value


def _without_credentials(url: str) -> str:
    """`url` without the name and password that some write before the host."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _patterns(name: str, value: str) -> tuple[str, ...]:
    if "/" in value:
        raise UsageError(f"mount option {name}={value}: these are patterns of names, which have no slash")
    return tuple(filter(None, value.split(":")))


def _text(name: str, value: str) -> str:
    if not value:
        raise UsageError(f"mount option {name}= takes a value")
    return value


_FLAGS = {"ro": "read_only", "allow_other": "allow_other", "noexec": "no_exec", "xattr": "xattr", "remount": "remount"}

_OPPOSITES = {"rw": "read_only", "exec": "no_exec"}
"""What takes such an option back."""

_VALUES: dict[str, tuple[str, Callable[[str, str], object]]] = {
    "revalidate": ("revalidate", _seconds),
    "timeout": ("timeout", _seconds),
    "attr_timeout": ("attribute_timeout", _seconds),
    "ttl": ("lifetime", _duration),
    "excl": ("exclusive", _either("open", "close")),
    "commit": ("commit", _either("sync", "async")),
    "flush_delay": ("flush_delay", _seconds),
    "backlog_size": ("backlog_size", _size),
    "backlog_count": ("backlog_count", _count),
    "cache_size": ("cache_size", _size),
    "memory_cache": ("memory_cache", _size),
    "uid": ("uid", _number),
    "gid": ("gid", _number),
    "umask": ("umask", _mask),
    "endpoint": ("endpoint", _text),
    "region": ("region", _text),
    "profile": ("profile", _text),
    "access_log": ("access_log", _absolute),
    "local": ("local", _patterns),
}
