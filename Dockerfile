# The API (--target api, no TensorFlow) and the CPU worker (--target worker).
# docker-compose.yml builds both; Dockerfile.gpu is the worker on an NVIDIA GPU.
#
# The tag names the interpreter. For a reproducible build, add the digest that
# `docker buildx imagetools inspect python:3.12-slim-bookworm` prints: FROM python:…@sha256:…
FROM python:3.12-slim-bookworm AS base
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 \
    PATH=/opt/opsin/bin:$PATH OPSIN_HOME=/var/lib/opsin
# A new volume takes owner and mode from the folder it is mounted on.
RUN useradd --uid 10001 --no-create-home --home-dir /var/lib/opsin --shell /usr/sbin/nologin opsin \
    && install -d -o opsin -g opsin -m 700 /var/lib/opsin

FROM base AS build-api
WORKDIR /src
RUN python -m venv /opt/opsin
COPY requirements/api.txt requirements/
RUN pip install --require-hashes -r requirements/api.txt
COPY . .
# The build backend is in the hashed requirements, so nothing more is fetched.
RUN pip install --no-deps --no-build-isolation --no-index .

FROM base AS build-worker
WORKDIR /src
RUN python -m venv /opt/opsin
COPY requirements/worker.txt requirements/
RUN pip install --require-hashes -r requirements/worker.txt
COPY . .
RUN pip install --no-deps --no-build-isolation --no-index .

FROM base AS api
COPY --from=build-api /opt/opsin /opt/opsin
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
CMD ["opsin", "serve"]

FROM base AS worker
COPY --from=build-worker /opt/opsin /opt/opsin
USER 10001:10001
STOPSIGNAL SIGTERM
CMD ["opsin", "worker"]
