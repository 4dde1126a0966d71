"""The `s3://` store by obstore: what most requests are, at a quarter of the processor time that boto3 takes for them.

GET of an object, PUT of a small one and unconditional DELETE go through obstore (the object_store of Rust), in the same
worker threads and under the same limit as everything else, which `S3Store` does by boto3: listings, multipart uploads,
conditional DELETE, which obstore has not, large bodies, where the time is in the bytes and a timeout must mean that
nothing moves, and what a server answers in a way that obstore refuses.

* obstore never repeats a request either, and never looks for keys: before each request boto3 says which are valid.
* What was answered stands in the text of obstore's errors only: status and S3 code are taken from there.
"""

import contextlib
import logging
import re
import threading
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from xml.sax.saxutils import unescape

import obstore
from obstore.exceptions import BaseError, NotModifiedError
from obstore.store import S3Store as Objects

from stowfs.config import MIB, StoreOptions
from stowfs.errors import ObjectNotFound, PreconditionFailed, StoreUnavailable
from stowfs.store.base import ALWAYS, Always, ByteRange, Condition, Found, IfAbsent, IfMatch, NotModified
from stowfs.store.rules import PAGE_SIZE, check_key
from stowfs.store.s3 import S3Store, bare, incomplete
from stowfs.store.s3_account import Account, Keys
from stowfs.store.s3_errors import translate

if TYPE_CHECKING:
    from obstore.store import ClientConfig, S3Credential

log = logging.getLogger(__name__)

_LARGE = 1 * MIB
"""Bytes of a body from which on boto3 sends it. obstore's read timeout begins with the request: a body must be sent
within it, over the slowest line, beside others. For boto3 it begins anew with every piece that was sent."""

_WHOLE = timedelta(days=1)
"""Bound on a whole request: none that matters, since how long one may be silent is bounded, and the caller has a
deadline of its own. obstore's default of 30 s would end large answers over slow lines."""

_REFUSED_KEY = re.compile(r"[\x00-\x1f\x7f]")
"""Characters that obstore takes in no key."""

_HOST_NAME = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
"""Buckets whose names are host names under a wildcard certificate of AWS; others are named in the path."""

_STATUS = "Server returned non-2xx status code: "
_ANSWERED = re.compile(re.escape(_STATUS) + r"(\d{3})[^:]*:(.*)", re.DOTALL)
_CODE = re.compile(r"<Code>([^<]*)</Code>")
_MESSAGE = re.compile(r"<Message>([^<]*)</Message>")
_CAUSE = re.compile(r'(?:message|error): "((?:[^"\\]|\\.)*)"')
"""What the operating system said, in the account that obstore gives of an error."""

_ELSEWHERE = frozenset({"PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed"})
"""S3 codes by which AWS says that a bucket is in another region. boto3 finds out in which one."""


class _Refused(Exception):
    """obstore cannot do the request, and nothing has been done: boto3 can."""


@dataclass(frozen=True, slots=True)
class _Given:
    """The provider of keys of one `Objects`: always the same ones. Those of the environment are not looked at."""

    keys: Keys

    def __call__(self) -> "S3Credential":
        keys = self.keys
        return {
            "access_key_id": keys.access_key,
            "secret_access_key": keys.secret_key,
            "token": keys.token,
            "expires_at": None,
        }


class ObstoreS3Store(S3Store):
    """As `S3Store`, faster. Made by `open_bucket`."""

    def __init__(
        self, account: Account, bucket: str, prefix: str, options: StoreOptions, *, page_size: int = PAGE_SIZE
    ) -> None:
        super().__init__(account.client, bucket, prefix, options, page_size=page_size)
        self._account = account
        self._options = options
        self._lock = threading.Lock()
        self._signed_by: tuple[Keys, Objects] | None = None
        # Whether obstore cannot be used at all: the bucket is somewhere else, and only boto3 goes there.
        self.useless = _REFUSED_KEY.search(prefix) is not None

    async def get(
        self, key: str, *, byte_range: ByteRange | None = None, if_none_match: str | None = None
    ) -> Found | NotModified:
        empty = byte_range is not None and byte_range.end <= byte_range.start
        if not empty and self._takes(key):
            with contextlib.suppress(_Refused):
                return await self._run(partial(self._get_object, key, byte_range, if_none_match), key)
        return await super().get(key, byte_range=byte_range, if_none_match=if_none_match)

    async def put(self, key: str, body: bytes, condition: Condition = ALWAYS) -> str:
        if len(body) < _LARGE and self._takes(key):
            try:
                return await self._run(partial(self._put_object, key, body, condition), key)
            except ObjectNotFound as error:  # How some answer to If-Match where there is nothing.
                raise PreconditionFailed(str(error)) from error
            except _Refused:
                pass
        return await super().put(key, body, condition)

    async def delete(self, key: str, condition: Condition = ALWAYS) -> None:
        if isinstance(condition, Always) and self._takes(key):
            try:
                return await self._run(partial(self._delete_object, key), key)
            except ObjectNotFound:
                return None
            except _Refused:
                pass
        return await super().delete(key, condition)

    def _takes(self, key: str) -> bool:
        check_key(key)
        return not self.useless and _REFUSED_KEY.search(key) is None

    # In worker threads

    def _get_object(self, key: str, byte_range: ByteRange | None, if_none_match: str | None) -> Found | NotModified:
        options: obstore.GetOptions = {}
        if byte_range is not None:
            options["range"] = (byte_range.start, byte_range.end)
        if if_none_match is not None:
            options["if_none_match"] = f'"{if_none_match}"'
        try:
            answer = obstore.get(self._current(), self._prefix + key, options=options)
            body = bytes(answer.bytes())
        except NotModifiedError:
            return NotModified()
        except (BaseError, FileNotFoundError) as error:
            raise self._failure(error, key) from error
        etag = answer.meta["e_tag"]
        if etag is None:
            raise incomplete("ETag")
        return Found(body, bare(etag))

    def _put_object(self, key: str, body: bytes, condition: Condition) -> str:
        mode: obstore.PutMode
        match condition:
            case Always():
                mode = "overwrite"
            case IfAbsent():
                mode = "create"
            case IfMatch(etag):
                mode = {"e_tag": f'"{etag}"' if self._quoted else etag}
        try:
            # As a view: what could be the path of a file must not be taken for one.
            answer = obstore.put(self._current(), self._prefix + key, memoryview(body), mode=mode, use_multipart=False)
        except (BaseError, FileNotFoundError) as error:
            raise self._failure(error, key) from error
        if answer["e_tag"] is None:
            raise incomplete("ETag")
        return bare(answer["e_tag"])

    def _delete_object(self, key: str) -> None:
        try:
            obstore.delete(self._current(), self._prefix + key)
        except (BaseError, FileNotFoundError) as error:
            raise self._failure(error, key) from error

    def _current(self) -> Objects:
        """The bucket, for requests that are signed with the keys as of now."""
        keys = self._account.keys()
        with self._lock:
            if self._signed_by is None or self._signed_by[0] != keys:
                self._signed_by = keys, self.objects(keys)
            return self._signed_by[1]

    def objects(self, keys: Keys) -> Objects:
        meta = self._client.meta
        endpoint, virtual = meta.endpoint_url, False
        parts = urlsplit(endpoint)
        if meta.config.s3["addressing_style"] == "auto" and _HOST_NAME.fullmatch(self._bucket):
            endpoint, virtual = f"{parts.scheme}://{self._bucket}.{parts.netloc}{parts.path}", True
        client_options: ClientConfig = {
            "allow_http": True,
            "connect_timeout": timedelta(seconds=self._options.connect_timeout),
            "read_timeout": timedelta(seconds=self._options.read_timeout),
            "timeout": _WHOLE,
        }
        bundle = self._account.ca_bundle
        if bundle is not None and parts.scheme == "https":
            client_options["root_certificate"] = Path(bundle).read_bytes()
        # All that must not come from variables of the environment, which obstore looks at and boto3 does not.
        return Objects(
            self._bucket,
            endpoint=endpoint,
            aws_endpoint_url_s3=endpoint,
            virtual_hosted_style_request=virtual,
            region=meta.region_name,
            conditional_put="etag",
            disable_bulk_delete=True,
            skip_signature=False,
            s3_express=False,
            credential_provider=_Given(keys),
            client_options=client_options,
            retry_config={"max_retries": 0},
        )

    def _failure(self, error: Exception, key: str) -> Exception:
        """What an error of obstore is for the callers of stores: a `StowError`, or `_Refused`.

        What is looked for must not be possible in a URL, where most that is not a letter or digit is escaped.
        """
        text, _, account = str(error).partition("\n\nDebug source:\n")
        if _STATUS in (path := self._prefix + key):
            text = text.replace(path, "")  # What the server said counts, not what somebody has called an object.
        if answered := _ANSWERED.search(text):
            status, body = int(answered[1]), answered[2]
            code, message = (unescape(found[1]) if (found := part.search(body)) else "" for part in (_CODE, _MESSAGE))
            if 300 <= status < 400 or code in _ELSEWHERE:
                return self._give_up("the bucket is in another region")
            if status == 416:
                return _Refused()
            return translate(code, status, message, place=self._place, key=key)
        if "redirect without LOCATION" in text:
            return self._give_up("the bucket is in another region")
        if "InvalidCertificate(" in account:  # OpenSSL takes some more, such as self-signed ones.
            return self._give_up("obstore does not accept the certificate of the endpoint")
        if "non-partial response" in text:  # From a server that does not know ranges.
            return _Refused()
        if "ETag Header missing" in text:
            return incomplete("ETag")
        if cause := _CAUSE.search(account):
            reason = cause[1]
        else:
            reason = "timed out" if "source: TimedOut" in account else text.rpartition(" - ")[2]
        return StoreUnavailable(f"{self._place}: {' '.join(reason.split())}: check the endpoint and the network")

    def _give_up(self, reason: str) -> _Refused:
        if not self.useless:
            log.warning(
                "%s: %s: all requests go by boto3 from now on, and cost more processor time", self._place, reason
            )
        self.useless = True
        return _Refused()
