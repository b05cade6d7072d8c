# One image for servers, workers and runs. PyPI's torch brings CUDA along: the host needs the driver
# and NVIDIA's container toolkit, and nothing else. Pin the base by its digest where you build.
FROM python:3.12-slim

# As in constraints.txt, so that nights do not change by themselves.
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY wsi_pipeline/ wsi_pipeline/
COPY flows/ flows/
COPY training/ training/
RUN pip install --no-cache-dir --constraint constraints.txt ".[cluster,flows,openvino,s3,training]"

# By number, as Kubernetes wants it for runAsNonRoot. Volumes must be writable for it.
RUN useradd --uid 10001 --user-group --create-home wsi && install -d -o wsi -g wsi /inbox /results
USER 10001:10001
WORKDIR /results
ENV DO_NOT_TRACK=1 PREFECT_SERVER_ANALYTICS_ENABLED=false PYTHONUNBUFFERED=1 \
    XDG_CACHE_HOME=/tmp/cache

# A run's command comes from its work pool.
CMD ["wsi", "--help"]
