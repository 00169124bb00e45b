# The PlainMed image. Three targets: `cpu` (the default), `gpu` and `vllm`. All run as user 1000 and hold Python,
# the locked dependencies, serve_app and the embedded models; no pip cache, no weights from S3, and no compiler but
# the one that vLLM calls while it runs.
#
#   docker build -t plainmed:0.1.0 --build-arg BASE_DIGEST=sha256:... .
#   docker build -t plainmed:0.1.0-gpu --target gpu --build-arg BASE_DIGEST=sha256:... .
#   docker build -t plainmed:0.1.0-vllm --target vllm --build-arg BASE_DIGEST=sha256:... .
#
# BASE_DIGEST pins the base image. It has no default: a digest has to be looked up where the registry can be reached
# (docs/kubernetes.md says how). Without it the tag decides, and two builds may differ.
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm
ARG BASE_DIGEST=""

# --- what every stage starts from ------------------------------------------------------------
FROM ${BASE_IMAGE}${BASE_DIGEST:+@${BASE_DIGEST}} AS base
SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# --- dependencies, as locked; built again only when they change -------------------------------
FROM base AS environment
WORKDIR /build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# The environment gets no pip of its own: it is filled from outside.
RUN python3 -m venv --without-pip /opt/plainmed
COPY pyproject.toml ./

# Every file must have a hash of the lock; --no-deps, because the lock holds all there is to install, which `check` proves.
# torch comes first, from its own index and exactly this version: which wheel it is decides between CPU and CUDA. The
# lock has no hash of PyTorch's own builds: TORCH_CPU_SHA256 gives it (docs/kubernetes.md).
FROM environment AS dependencies-cpu
ARG TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
ARG TORCH_CPU_SHA256=""
COPY requirements.lock ./
RUN echo "torch==2.13.0${TORCH_CPU_SHA256:+ --hash=sha256:${TORCH_CPU_SHA256}}" > torch.lock \
    && if [ -z "${TORCH_CPU_SHA256}" ]; then echo "WARNING: torch is installed without its hash being checked;" \
        "give it by --build-arg TORCH_CPU_SHA256=... (docs/kubernetes.md)" >&2; fi \
    && python3 -m pip --python /opt/plainmed/bin/python install --no-deps --only-binary :all: \
        --index-url "${TORCH_CPU_INDEX}" --requirement torch.lock \
    && python3 -m pip --python /opt/plainmed/bin/python install --no-deps --require-hashes \
        --requirement requirements.lock \
    && python3 -m pip --python /opt/plainmed/bin/python check

FROM environment AS dependencies-gpu
COPY requirements-cuda.lock ./
RUN python3 -m pip --python /opt/plainmed/bin/python install --no-deps --require-hashes \
        --requirement requirements-cuda.lock \
    && python3 -m pip --python /opt/plainmed/bin/python check

# As `gpu`, with the extra `vllm`. vLLM wants an older FastAPI than constraints.txt has: it has a lock of its own.
FROM environment AS dependencies-vllm
COPY requirements-vllm.lock ./
RUN python3 -m pip --python /opt/plainmed/bin/python install --no-deps --require-hashes \
        --requirement requirements-vllm.lock \
    && python3 -m pip --python /opt/plainmed/bin/python check

# --- the application alone, laid out as it will lie in the image -----------------------------
FROM environment AS application
COPY README.md LICENSE NOTICE metrics_client.py serve_config.yaml ./
COPY serve_app ./serve_app
RUN python3 -m pip wheel --no-deps --wheel-dir /wheels . \
    && python3 -m pip --python /opt/plainmed/bin/python install --no-deps --root /application \
        /wheels/plainmed-*.whl \
    && install -D -m 0644 serve_config.yaml /application/opt/plainmed/serve_config.yaml \
    && install -D -m 0644 -t /application/opt/plainmed/licenses LICENSE NOTICE

# --- what runs ---------------------------------------------------------------------------------
FROM base AS runtime
# KubeRay starts containers by a login shell, which forgets PATH: hence the links.
RUN groupadd --gid 1000 plainmed \
    && useradd --uid 1000 --gid 1000 --create-home --shell /usr/sbin/nologin plainmed \
    && install -d -o 1000 -g 1000 /var/cache/plainmed \
    && ln -s /opt/plainmed/bin/ray /opt/plainmed/bin/serve /opt/plainmed/bin/plainmed /usr/local/bin/
ENV PATH=/opt/plainmed/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=serve_app.serving.proxy.middleware.middlewares \
    MALLOC_ARENA_MAX=2 \
    CACHE_DIR=/var/cache/plainmed \
    HOST=0.0.0.0
ARG BASE_IMAGE
ARG BASE_DIGEST
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="PlainMed" \
      org.opencontainers.image.description="Scores and generates plain-language summaries of medical text." \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${BASE_IMAGE}" \
      org.opencontainers.image.base.digest="${BASE_DIGEST}"
WORKDIR /home/plainmed
EXPOSE 8000
# For plain containers; Kubernetes has the chart's probes instead.
HEALTHCHECK --interval=30s --timeout=10s --start-period=180s --retries=3 \
    CMD ["/opt/plainmed/bin/python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ.get('PORT', '8000') + '/healthz', timeout=8)"]
CMD ["plainmed", "serve", "/opt/plainmed/serve_config.yaml"]

FROM runtime AS gpu
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=dependencies-gpu /opt/plainmed /opt/plainmed
COPY --from=application /application/ /
USER 1000:1000

FROM runtime AS vllm
# Triton, which vLLM's kernels are written in, compiles their launchers with the C compiler of the machine they run on.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc g++ libc6-dev \
    && rm -rf /var/lib/apt/lists/*
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    VLLM_CACHE_ROOT=/var/cache/plainmed/vllm \
    TRITON_CACHE_DIR=/var/cache/plainmed/triton \
    VLLM_NO_USAGE_STATS=1
COPY --from=dependencies-vllm /opt/plainmed /opt/plainmed
COPY --from=application /application/ /
USER 1000:1000

FROM runtime AS cpu
COPY --from=dependencies-cpu /opt/plainmed /opt/plainmed
COPY --from=application /application/ /
USER 1000:1000
