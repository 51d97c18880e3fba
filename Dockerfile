# One image for both services and for the command line:
#   docker build -t meshwarden .
#   docker run --read-only meshwarden ratelimit_service        any module: ext_authz (the default), ratelimit_service
#   docker run --entrypoint meshwarden meshwarden check DIR     the command line; `ratelimit` is there for drop-ins
# Pin the base by digest where you build; the tag is what could be named here. No step was run by a container engine here:
# a test runs them in an empty folder (tests/istio/test_image.py).
FROM python:3.11-slim-bookworm AS build
ENV UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 UV_NO_CACHE=1
ENV UV_PROJECT_ENVIRONMENT=/opt/meshwarden
RUN python -m venv /opt/uv && /opt/uv/bin/pip install --quiet --no-cache-dir --disable-pip-version-check uv==0.13.9
WORKDIR /src
# What others wrote, first: a layer that stays while only our own code changes.
COPY pyproject.toml uv.lock ./
RUN /opt/uv/bin/uv sync --quiet --locked --no-dev --extra nghttp2 --no-install-project --python python
COPY hatch_build.py README.md LICENSE ./
COPY meshwarden meshwarden
COPY ext_authz ext_authz
COPY ratelimit_service ratelimit_service
RUN /opt/uv/bin/uv sync --quiet --locked --no-dev --extra nghttp2 --no-editable --python python

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="Meshwarden" \
      org.opencontainers.image.description="External authorization and global rate limits for Envoy and Istio" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="docker.io/library/python:3.11-slim-bookworm"
# What is compiled is compiled: nothing is written below, so that the root may be read-only.
ENV PATH=/opt/meshwarden/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
COPY --from=build /opt/meshwarden /opt/meshwarden
# By its number, which Kubernetes can see not to be root's.
USER 65532:65532
WORKDIR /
EXPOSE 9001 9002 9003 8080 8081 8083
# As a list: the process gets SIGTERM itself, and drains.
ENTRYPOINT ["python", "-m"]
CMD ["ext_authz"]
