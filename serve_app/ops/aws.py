"""What the ops commands ask of AWS itself, and the bucket of Terraform's state, which they make.

Terraform cannot make the bucket it needs first. Every failure says what to do.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
)

from serve_app.ops.errors import OpsError

GPU_QUOTA = "L-DB2E81BA"  # "Running On-Demand G and VT instances", in vCPUs
_CONFIG = Config(
    connect_timeout=10, read_timeout=30, retries={"mode": "standard", "total_max_attempts": 3}
)


def _session() -> boto3.session.Session:
    """Reads profile and credentials anew, as the environment is now."""
    return boto3.session.Session()


@dataclass(frozen=True, slots=True)
class RegistryLogin:
    """Arguments of `docker login`; the password is valid for twelve hours."""

    registry: str
    password: str


class Aws:
    """One account and region."""

    def __init__(self, region: str) -> None:
        self.region = region
        self._clients: dict[str, Any] = {}  # one costs a tenth of a second to make

    def _client(self, service: str) -> Any:
        if service not in self._clients:
            try:
                session: Any = _session()
                made = session.client(service, region_name=self.region, config=_CONFIG)
            except (BotoCoreError, ValueError) as error:
                raise _explained(error, f"reach {service}") from error
            self._clients[service] = made
        return self._clients[service]

    def _ask(self, service: str, operation: str, **given: Any) -> Any:
        client = self._client(service)
        try:
            return getattr(client, operation)(**given)
        except BotoCoreError as error:
            raise _explained(error, f"{service} {operation}") from error

    def _exists(self, missing: str, what: str, service: str, operation: str, **given: Any) -> bool:
        """Whether something exists; `missing` is the API's error code where it does not.

        Raises:
            OpsError: the question is refused.
        """
        try:
            self._ask(service, operation, **given)
        except ClientError as error:
            if error.response["Error"]["Code"] == missing:
                return False
            raise _explained(error, what) from error
        return True

    def account(self) -> str:
        """The account the credentials belong to.

        Raises:
            OpsError: there are no credentials, or they are refused.
        """
        try:
            return str(self._ask("sts", "get_caller_identity")["Account"])
        except ClientError as error:
            raise _explained(error, "check the credentials") from error

    def model_problem(self, bucket: str, model: str | None, *, merged: bool = False) -> str | None:
        """Why a model cannot be served from a bucket; None if it can.

        Args:
            bucket: MODEL_S3_BUCKET.
            model: MODEL_NAME; None asks after the bucket alone.
            merged: whether a LoRA adapter will not do.
        """
        try:
            self._ask("s3", "head_bucket", Bucket=bucket)
            if model is None:
                return None
            prefix = f"merged-models/{model}/"
            page = self._ask("s3", "list_objects_v2", Bucket=bucket, Prefix=prefix)
            names = {item["Key"].removeprefix(prefix) for item in page.get("Contents", [])}
            if merged and "adapter_config.json" in names and "config.json" not in names:
                return (
                    f"s3://{bucket}/{prefix} is a LoRA adapter, and vLLM takes whole models: merge "
                    "it with scripts/merge_and_upload.py, and name what that uploads"
                )
            if names & {"config.json", "adapter_config.json"}:
                return None
            if names:
                return (
                    f"s3://{bucket}/{prefix} has no config.json (nor adapter_config.json), so it "
                    "is no model; upload the whole directory"
                )
            found = self._models(bucket)
        except ClientError as error:
            return _bucket_problem(error, bucket)
        offered = f"there are: {', '.join(found)}" if found else "merged-models/ is empty"
        return f"MODEL_NAME {model!r}: nothing is at s3://{bucket}/{prefix}; {offered}"

    def _models(self, bucket: str) -> list[str]:
        page = self._ask(
            "s3", "list_objects_v2", Bucket=bucket, Prefix="merged-models/", Delimiter="/"
        )
        prefixes = page.get("CommonPrefixes", [])
        return [item["Prefix"].split("/")[1] for item in prefixes][:20]

    def gpu_problem(self, node_vcpus: int) -> str | None:
        """Why no GPU node of `node_vcpus` could start; None if one can."""
        try:
            answer = self._ask(
                "service-quotas", "get_service_quota", ServiceCode="ec2", QuotaCode=GPU_QUOTA
            )
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code == "NoSuchResourceException":
                answer = {"Quota": {"Value": 0.0}}  # never raised from the default, which is none
            else:
                return (
                    f"the GPU quota cannot be read ({code}); allow servicequotas:GetServiceQuota, "
                    f"or check quota {GPU_QUOTA} by hand and use --skip-quota"
                )
        vcpus = float(answer["Quota"]["Value"])
        if vcpus >= node_vcpus:
            return None
        return (
            f"the quota for G instances in {self.region} is {vcpus:g} vCPUs and one node takes "
            f"{node_vcpus}; ask for more: aws service-quotas request-service-quota-increase "
            f"--service-code ec2 --quota-code {GPU_QUOTA} --desired-value {2 * node_vcpus} "
            f"--region {self.region}"
        )

    def cluster_exists(self, name: str) -> bool:
        """Whether there is an EKS cluster of that name, in whatever state; else see `_exists`."""
        missing, what = "ResourceNotFoundException", f"look at cluster {name}"
        return self._exists(missing, what, "eks", "describe_cluster", name=name)

    def image_exists(self, repository: str, tag: str) -> bool:
        """Whether `ACCOUNT.dkr.ecr.REGION.amazonaws.com/NAME` holds a tag; see `_exists`."""
        name = repository.partition("/")[2]
        return self._exists(
            *("ImageNotFoundException", f"look into repository {name}", "ecr", "describe_images"),
            repositoryName=name,
            imageIds=[{"imageTag": tag}],
        )

    def registry_login(self) -> RegistryLogin:
        """A fresh login for this account's registry.

        Raises:
            OpsError: it was refused.
        """
        try:
            data = self._ask("ecr", "get_authorization_token")["authorizationData"][0]
        except ClientError as error:
            raise _explained(error, "log in to ECR") from error
        _, _, password = base64.b64decode(data["authorizationToken"]).decode().partition(":")
        return RegistryLogin(str(data["proxyEndpoint"]).partition("://")[2], password)

    def bucket_exists(self, name: str) -> bool:
        """Whether there is such a bucket, and it may be used.

        Raises:
            OpsError: it cannot be looked at, or belongs to somebody else.
        """
        try:
            self._ask("s3", "head_bucket", Bucket=name)
        except ClientError as error:
            if error.response["Error"]["Code"] in ("404", "NoSuchBucket"):
                return False
            raise OpsError(_bucket_problem(error, name)) from error
        return True

    def ensure_state_bucket(self, name: str) -> bool:
        """Makes the bucket of Terraform's state unless it is there: private, versioned, encrypted.

        Returns:
            Whether it was made.

        Raises:
            OpsError: it cannot be made or looked at.
        """
        if self.bucket_exists(name):
            return False
        where = {"CreateBucketConfiguration": {"LocationConstraint": self.region}}
        blocked = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy")
        closed = dict.fromkeys((*blocked, "RestrictPublicBuckets"), True)
        steps: dict[str, dict[str, Any]] = {
            "create_bucket": {} if self.region == "us-east-1" else where,
            "put_public_access_block": {"PublicAccessBlockConfiguration": closed},
            "put_bucket_versioning": {"VersioningConfiguration": {"Status": "Enabled"}},
        }
        try:
            for operation, given in steps.items():
                self._ask("s3", operation, Bucket=name, **given)
        except ClientError as error:
            raise _explained(error, f"make the state bucket {name}") from error
        return True


def _bucket_problem(error: ClientError, bucket: str) -> str:
    code = error.response["Error"]["Code"]
    if code in ("404", "NoSuchBucket"):
        return f"there is no bucket {bucket!r}; check MODEL_S3_BUCKET"
    if code in ("403", "AccessDenied"):
        return f"bucket {bucket!r} denies access; you need s3:ListBucket and s3:GetObject on it"
    if code in ("301", "PermanentRedirect", "400"):
        return f"bucket {bucket!r} is in another region; pass --region"
    return f"bucket {bucket!r}: {error}"


def _explained(error: Exception, what: str) -> OpsError:
    """The cause and its remedy, without secrets."""
    if isinstance(error, NoCredentialsError | PartialCredentialsError | ProfileNotFound):
        return OpsError(
            "no usable AWS credentials; run `aws sso login`, or set AWS_PROFILE, or "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if isinstance(error, NoRegionError):
        return OpsError("no AWS region; pass --region")
    if isinstance(error, ClientError):
        code = error.response["Error"]["Code"]
        if code in ("ExpiredToken", "ExpiredTokenException", "InvalidClientTokenId"):
            return OpsError(f"the AWS credentials were refused ({code}); renew them")
        if code in ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation"):
            return OpsError(f"cannot {what}: denied ({code}); ask for that permission: {error}")
    return OpsError(f"cannot {what}: {error}; check the network and AWS_ENDPOINT_URL")
