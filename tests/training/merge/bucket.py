"""What the tests of merging share: a text to write on, and a look into the bucket."""

from __future__ import annotations

import os
from typing import Any

import boto3

from serve_app.generation.protocol import GenerationParams

TEXT = "The trial included 120 adults."
GREEDY = GenerationParams(max_new_tokens=30, temperature=0.0)


def s3() -> Any:
    return boto3.client("s3", region_name="us-east-1", endpoint_url=os.environ["AWS_ENDPOINT_URL"])


def keys(bucket: str, prefix: str = "") -> set[str]:
    found = s3().list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
    return {item["Key"].removeprefix(prefix) for item in found}
