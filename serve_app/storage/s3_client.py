"""S3 as AWS's usual chain configures it, and its errors as a cause and a remedy.

Endpoint, region and credentials come from the environment, the profile or the role. Knows no
model, no corpus and no cache; no message holds a secret.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Iterator
from typing import Any

import botocore.session
from boto3.exceptions import Boto3Error
from boto3.session import Session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
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

from serve_app.core.errors import ConfigError, InvalidInput, PlainMedError

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
BROKEN = (IncompleteReadError, ResponseStreamingError, FlexibleChecksumError, *UNREACHABLE)
FAILURES = (BotoCoreError, ClientError, Boto3Error, ValueError, OSError)
"""What boto3 raises; ValueError: the endpoint is not a URL; OSError: there is no token file."""
_NO_CREDENTIALS = (
    NoCredentialsError,
    PartialCredentialsError,
    CredentialRetrievalError,
    TokenRetrievalError,
)
_STS = ("AssumeRole", "GetRoleCredentials", "GetSessionToken", "GetFederationToken")
_BUCKET = "s3:ListBucket on bucket {bucket!r} and "
_PERMISSIONS = {
    "fetch": _BUCKET + "s3:GetObject on the key",
    "upload": _BUCKET + "s3:PutObject and s3:GetObject on the key",
    "read": "s3:GetObject on the key",
    "write": "s3:PutObject and s3:DeleteObject on the key",
    "list": "s3:ListBucket on bucket {bucket!r}",
    "remove": "s3:DeleteObject on the keys",
}
_NO_OBJECT = "there is no such object"
_NO_BUCKET = "there is no bucket {bucket!r} at this endpoint; check its name and the region"
_DENIED = "access denied ({code}); the credentials in use need {permissions}"
_REFUSED = "the AWS credentials were refused ({code}); renew them or check the clock"
_ELSEWHERE = "bucket {bucket!r} is in another region ({code}); set AWS_REGION to it"
_CAUSES = {
    "NoSuchKey": _NO_OBJECT,
    "404": _NO_OBJECT + ", or no such bucket",
    "NoSuchBucket": _NO_BUCKET,
    **dict.fromkeys(
        ("AccessDenied", "403", "Forbidden", "AllAccessDisabled", "AccountProblem"), _DENIED
    ),
    **dict.fromkeys(
        (
            "InvalidAccessKeyId",
            "SignatureDoesNotMatch",
            "ExpiredToken",
            "InvalidToken",
            "RequestTimeTooSkewed",
        ),
        _REFUSED,
    ),
    **dict.fromkeys(
        ("PermanentRedirect", "AuthorizationHeaderMalformed", "301", "307"), _ELSEWHERE
    ),
    "InvalidObjectState": "the object is archived (Glacier); restore it first",
}
_URL = re.compile(r"s3://(?P<bucket>[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9])/(?P<key>.+)")

Kind = type[ConfigError] | type[InvalidInput]


def parse_url(url: str, kind: Kind = ConfigError) -> tuple[str, str]:
    """Bucket and key of `s3://BUCKET/KEY`.

    Raises:
        PlainMedError: of the `kind`: it is something else.
    """
    match = _URL.fullmatch(url)
    if match is None:
        raise kind(
            f"{url!r} is not an S3 file or folder; write s3://BUCKET/KEY or s3://BUCKET/KEY/"
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
    session.register_component("data_loader", _loader(session.get_config_variable("data_path")))
    profile = session.get_scoped_config()
    # A custom endpoint (MinIO, a test server) seldom has a host name for each bucket.
    custom = (
        os.environ.get("AWS_ENDPOINT_URL_S3")
        or os.environ.get("AWS_ENDPOINT_URL")
        or profile.get("endpoint_url")
    )
    return Session(botocore_session=session).client(
        "s3",
        config=Config(
            connect_timeout=10,
            read_timeout=60,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            max_pool_connections=CONNECTIONS + (os.cpu_count() or 1),  # ranges, and checks
            response_checksum_validation="when_required",  # `checksums` does it, also for ranges
            s3={"addressing_style": "path"} if custom and "s3" not in profile else None,
        ),
    )


@functools.lru_cache(maxsize=4)
def _loader(search_path: str | None) -> Any:
    return create_loader(search_path)


def error_code(error: Exception) -> str:
    """What S3 calls the error; empty if S3 did not answer."""
    return str(error.response["Error"]["Code"]) if isinstance(error, ClientError) else ""


def failing(error: Exception) -> bool:
    """Whether S3 answered that it cannot now: overloaded (SlowDown), or an error of its own."""
    if not isinstance(error, ClientError):
        return False
    return error.response["ResponseMetadata"].get("HTTPStatusCode") in (500, 502, 503, 504)


@contextlib.contextmanager
def explaining(doing: str, url: str, kind: Kind = ConfigError) -> Iterator[None]:
    """Raises `explained` for what boto3 raises within."""
    try:
        yield
    except PlainMedError:
        raise
    except FAILURES as error:
        raise explained(error, doing, url, kind) from error


def explained(error: Exception, doing: str, url: str, kind: Kind = ConfigError) -> PlainMedError:
    """The cause and the remedy.

    Args:
        error: one of `FAILURES`.
        doing: what could not be done: `fetch`, `upload`, `read`, `write`, `list` or `remove`.
        url: the object or prefix, as `s3://bucket/key`.
        kind: of the error that is returned.
    """
    if isinstance(error, Boto3Error):  # upload_file says in a text what another error said
        error = error.__context__ if isinstance(error.__context__, Exception) else error
    bucket = url.removeprefix("s3://").partition("/")[0]
    code = error_code(error)
    if isinstance(error, OSError) and error.filename:
        cause = (
            f"cannot read {error.filename}: {error.strerror}; if it is the web identity token, "
            "give the pod a service account with a role, or correct AWS_WEB_IDENTITY_TOKEN_FILE"
        )
    elif isinstance(error, ClientError) and error.operation_name.startswith(_STS):
        cause = (
            f"AWS refuses the role ({code} from {error.operation_name}); check the role's name "
            "(AWS_ROLE_ARN) and that its trust policy allows this service account or user"
        )
    elif isinstance(error, _NO_CREDENTIALS):
        cause = (
            "no usable AWS credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "AWS_PROFILE, or give the machine or pod a role"
        )
    elif code in _CAUSES:
        permissions = _PERMISSIONS[doing].format(bucket=bucket)
        cause = _CAUSES[code].format(bucket=bucket, code=code, permissions=permissions)
    elif isinstance(error, UNREACHABLE):
        cause = f"S3 cannot be reached ({error}); check the network and AWS_ENDPOINT_URL"
    elif failing(error):
        cause = f"S3 answers that it cannot now ({code}); try again later"
    else:
        cause = str(error)
    return kind(f"cannot {doing} {url}: {cause}")
