"""Fixtures that tests of several layers use."""

from tests.support.s3_servers import moto, moto_url, rgw, rgw_url

__all__ = ["moto", "moto_url", "rgw", "rgw_url"]
