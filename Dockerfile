# One image for servers, workers and runs. PyPI's torch brings CUDA along: the host needs the driver
# and NVIDIA's container toolkit, and nothing else. A tag can be moved; where you build, pin its digest
# (`docker pull` shows it): docker build --build-arg BASE=python@sha256:… .
ARG BASE=python:3.12.11-slim-bookworm
FROM ${BASE}

# As in constraints.txt, so that nights do not change by themselves.
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY wsi_pipeline/ wsi_pipeline/
COPY flows/ flows/
COPY training/ training/
RUN pip install --no-cache-dir --constraint constraints.txt ".[cluster,flows,openvino,s3,training]"

# By number, as Kubernetes wants it for runAsNonRoot. Volumes must be writable for it. All else that is
# written goes to /tmp, so that the root file system can be read-only.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp wsi \
    && install -d -o wsi -g wsi /inbox /results
USER 10001:10001
WORKDIR /results
ENV DO_NOT_TRACK=1 PREFECT_SERVER_ANALYTICS_ENABLED=false PYTHONUNBUFFERED=1 \
    HOME=/tmp PREFECT_HOME=/tmp/prefect XDG_CACHE_HOME=/tmp/cache

# What a run can lose while it lives is its drives. Prefect's server is not asked: a run goes on without
# it. (For a container of that server: --health-cmd, and its own /api/health.)
HEALTHCHECK --interval=60s --timeout=30s --retries=5 \
    CMD test -r /inbox && test -w /results

# A run's command comes from its work pool.
CMD ["wsi", "--help"]
