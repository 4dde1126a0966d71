"""The options of a mount as text."""

import pytest

from stowfs.config import GIB, MIB, HotTierOptions, StoreOptions, VaultOptions
from stowfs.errors import UsageError
from stowfs.mount.options import MountOptions, parse_options, without_unknown


def test_nothing_given_leaves_the_defaults_of_every_layer() -> None:
    options = parse_options([])
    assert options == MountOptions()
    assert options.for_vault() == VaultOptions()
    assert options.for_hot_tier() == HotTierOptions()
    given = StoreOptions(endpoint="http://other", region="x", profile="z")
    assert options.for_store(given) == given


def test_every_option_reaches_its_layer() -> None:
    options = parse_options(
        [
            "ro,allow_other,noexec",
            "revalidate=2.5,attr_timeout=3,timeout=7,excl=open,cache_size=4G,memory_cache=128MiB",
            "uid=1000,gid=0,umask=027,endpoint=http://localhost:9000,region=x,profile=y,remount",
            "access_log=/var/log/stow,xattr,local=*.tmp:.x",
        ]
    )
    assert options == MountOptions(
        read_only=True,
        allow_other=True,
        no_exec=True,
        revalidate=2.5,
        attribute_timeout=3.0,
        timeout=7.0,
        exclusive="open",
        cache_size=4 * GIB,
        memory_cache=128 * MIB,
        uid=1000,
        gid=0,
        umask=0o027,
        endpoint="http://localhost:9000",
        region="x",
        profile="y",
        remount=True,
        access_log="/var/log/stow",
        xattr=True,
        local=("*.tmp", ".x"),
    )
    vault = options.for_vault()
    assert vault.read_only
    assert (vault.revalidate, vault.deadline, vault.memory_cache_size) == (2.5, 7.0, 128 * MIB)
    assert options.for_hot_tier().segment_cache_size == 4 * GIB
    store = StoreOptions(endpoint="http://localhost:9000", region="x", profile="y", deadline=7.0)
    assert options.for_store(StoreOptions(endpoint="http://other", profile="z")) == store


def test_what_fstab_holds_for_others_is_passed_over() -> None:
    text = "defaults,_netdev,noauto,nofail,nosuid,nodev,noatime,user,x-systemd.automount,comment=mine,,commit=sync"
    assert parse_options([text, "user_id=0,group_id=0"]) == MountOptions()


def test_a_lifetime_is_a_duration() -> None:
    assert parse_options([]).lifetime is None
    assert parse_options(["ttl=90"]).lifetime == 90
    assert parse_options(["ttl=1d,ttl=2h"]).lifetime == 7200


def test_the_last_one_counts() -> None:
    assert not parse_options(["ro", "rw"]).read_only
    assert parse_options(["rw,ro"]).read_only
    assert not parse_options(["noexec,exec"]).no_exec
    assert parse_options(["excl=open,excl=close"]).exclusive == "close"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nonsense", "unknown mount option 'nonsense'"),
        ("nonsense=1", "unknown mount option 'nonsense=1'"),
        ("commit=never", "either commit=sync or commit=async"),
        ("backlog_count=many", "not a number"),
        ("ro=1", "takes no value"),
        ("timeout", "takes a value"),
        ("timeout=-1", "not a number of seconds"),
        ("revalidate=soon", "not a number of seconds"),
        ("cache_size=4Q", "not a size"),
        ("cache_size=1.5G", "not a size"),
        ("memory_cache=", "not a size"),
        ("ttl=soon", "mount option ttl: 'soon' is no duration"),
        ("ttl=0", "mount option ttl: '0' is no duration"),
        ("excl=never", "either excl=open or excl=close"),
        ("uid=root", "not the number of a user"),
        ("gid=-1", "not the number of a user"),
        ("uid=4294967295", "not the number of a user"),
        ("umask=8", "not a mask"),
        ("umask=1777", "not a mask"),
        ("endpoint=", "takes a value"),
        ("access_log=log", "not an absolute path"),
        ("local=a/b", "have no slash"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        parse_options(["allow_other", text])


def test_unknown_ones_can_be_left_out() -> None:
    known = ["ro", "timeout=soon", "noatime", "x-any", "commit=sync"]
    assert without_unknown(["ro,nonsense,timeout=soon", "other=1,noatime,x-any,commit=sync"]) == known
