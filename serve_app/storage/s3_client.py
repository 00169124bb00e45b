"""S3 as AWS's usual chain configures it, and its errors in words a user can act on.

Endpoint, region and credentials come from the environment, the profile or the role. Knows
no model and no cache; nothing secret gets into a message.
"""

from __future__ import annotations

import functools
import os
import re
from typing import Any

import botocore.session
from botocore.config import Config
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    FlexibleChecksumError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ProxyConnectionError,
    ReadTimeoutError,
    ResponseStreamingError,
    TokenRetrievalError,
)
from botocore.loaders import create_loader

from serve_app.core.errors import ConfigError

CONNECTIONS = 16
"""Most requests under way at once: one connection to S3 gives some 80 MB/s, a link more."""

ATTEMPTS = 3
UNREACHABLE = (
    EndpointConnectionError,
    ConnectTimeoutError,
    ConnectionClosedError,
    ProxyConnectionError,
    ReadTimeoutError,
)
BROKEN = (
    IncompleteReadError,
    ResponseStreamingError,
    FlexibleChecksumError,
    *UNREACHABLE,
)
_NO_CREDENTIALS = (
    NoCredentialsError,
    PartialCredentialsError,
    CredentialRetrievalError,
    TokenRetrievalError,
)
_DENIED = {"AccessDenied", "403", "Forbidden", "AllAccessDisabled", "AccountProblem"}
_BAD_CREDENTIALS = {
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "RequestTimeTooSkewed",
}
_WRONG_REGION = {"PermanentRedirect", "AuthorizationHeaderMalformed", "301", "307"}
_REFERENCE = re.compile(r"s3://(?P<bucket>[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9])/(?P<key>.+)")


def parse_reference(reference: str) -> tuple[str, str]:
    """Bucket and key of `s3://BUCKET/KEY`.

    Raises:
        ConfigError: it is something else.
    """
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise ConfigError(
            f"{reference!r} is not an S3 reference; write s3://BUCKET/KEY or s3://BUCKET/PREFIX/"
        )
    return match["bucket"], match["key"]


def new_client() -> Any:
    """An S3 client; threads may share it.

    Raises:
        ValueError: the endpoint is not a URL.
        BotoCoreError: a profile or its file is wrong.
    """
    # A session of its own: environment and profile may have changed since the last one. AWS's
    # description of S3 is read only once, since that takes ten times as long as all the rest.
    session = botocore.session.Session()
    session.register_component(
        "data_loader", _descriptions(session.get_config_variable("data_path"))
    )
    return session.create_client(
        "s3",
        config=Config(
            connect_timeout=10,
            read_timeout=60,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            max_pool_connections=CONNECTIONS + (os.cpu_count() or 1),  # ranges, and checks
            response_checksum_validation="when_required",  # `checksums` does it, also for ranges
        ),
    )


@functools.lru_cache(maxsize=4)
def _descriptions(search_path: str | None) -> Any:
    return create_loader(search_path)


def error_code(error: Exception) -> str:
    """What S3 calls the error; empty if S3 did not answer."""
    return str(error.response["Error"]["Code"]) if isinstance(error, ClientError) else ""


def failing(error: Exception) -> bool:
    """Whether S3 answered that it cannot now: overloaded (SlowDown), or an error of its own."""
    if not isinstance(error, ClientError):
        return False
    return error.response["ResponseMetadata"].get("HTTPStatusCode") in (500, 502, 503, 504)


def explained(error: Exception, what: str, *, doing: str = "fetch") -> ConfigError:
    """The cause and the remedy.

    Args:
        error: what boto3 raised.
        what: the object or prefix, as `s3://bucket/key`.
        doing: `fetch` or `upload`.
    """
    bucket = what.removeprefix("s3://").partition("/")[0]
    code = error_code(error)
    if isinstance(error, _NO_CREDENTIALS):
        cause = (
            "no usable AWS credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "AWS_PROFILE, or give the machine or pod a role"
        )
    elif code in _DENIED:
        need = "s3:GetObject" if doing == "fetch" else "s3:PutObject and s3:GetObject"
        cause = (
            f"access denied ({code}); the credentials in use need s3:ListBucket on bucket "
            f"{bucket!r} and {need} on the key"
        )
    elif code in _BAD_CREDENTIALS:
        cause = f"the AWS credentials were refused ({code}); renew them or check the clock"
    elif code == "NoSuchBucket":
        cause = f"there is no bucket {bucket!r} at this endpoint; check MODEL_S3_BUCKET and region"
    elif code in _WRONG_REGION:
        cause = f"bucket {bucket!r} is in another region ({code}); set AWS_REGION to it"
    elif code == "InvalidObjectState":
        cause = "the object is archived (Glacier); restore it first"
    elif isinstance(error, UNREACHABLE):
        cause = f"S3 cannot be reached ({error}); check the network and AWS_ENDPOINT_URL"
    elif failing(error):
        cause = f"S3 answers that it cannot now ({code}); try again later"
    else:
        cause = str(error)
    return ConfigError(f"cannot {doing} {what}: {cause}")
