# docker build --build-arg EXTRA=cpu|gpu -t hepaseg .
# One image holds the service and its networks: nothing is fetched when it runs.
FROM python:3.11-slim-bookworm AS build
ARG EXTRA=cpu
WORKDIR /src
RUN python -m venv /opt/hepaseg
ENV PATH=/opt/hepaseg/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY pyproject.toml README.md LICENSE ./
COPY app ./app
COPY training/__init__.py ./training/__init__.py
# The floors and their reasons are in pyproject.toml.
# hadolint ignore=DL3013
RUN pip install ".[${EXTRA}]"

FROM python:3.11-slim-bookworm
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --create-home --home-dir /data hepaseg
COPY --from=build /opt/hepaseg /opt/hepaseg
COPY models /opt/models
ENV PATH=/opt/hepaseg/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HEPASEG_HOST=0.0.0.0 \
    HEPASEG_PORT=8008 \
    HEPASEG_DATA_DIR=/data \
    HEPASEG_MODELS_DIR=/opt/models
USER 10001
WORKDIR /data
VOLUME /data
EXPOSE 8008
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8008/health/ready', timeout=4)"]
ENTRYPOINT ["tini", "-g", "--"]
CMD ["hepaseg", "serve"]
