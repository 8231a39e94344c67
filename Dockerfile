# lq-operator: one image for every process; the Deployment says which.
# Bases without Internet access: --build-arg BASE=...; mirrors: --build-arg PIP_INDEX_URL=... PIP_CERT=...
ARG BASE=python:3.13-slim

FROM ${BASE} AS build
# libvirt-python has no wheels: it is compiled against the libvirt that the final stage installs. So are the placement
# engine's inner loops (hack/compile_kernel.py).
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev libvirt-dev pkg-config \
 && rm -rf /var/lib/apt/lists/*
ARG PIP_CERT
ARG PIP_INDEX_URL
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
# Dependencies first, pinned with hashes: this layer is kept while only our own source changes.
COPY requirements.lock ./
RUN pip install --require-hashes --no-deps -r requirements.lock
COPY pyproject.toml README.md ./
COPY hack/compile_kernel.py ./hack/
COPY charts ./charts
COPY src ./src
RUN pip install --no-deps . && pip check && pip uninstall -y pip

FROM ${BASE}
LABEL org.opencontainers.image.title="lq-operator" \
      org.opencontainers.image.description="Virtual machines on plain libvirt hosts, driven by Kubernetes custom resources" \
      org.opencontainers.image.licenses="Apache-2.0"
# libvirt0: the client library (TLS). openssh-client: hosts with qemu+ssh URIs.
# The user must have a name: libvirt and ssh look it up.
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates libvirt0 openssh-client \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 65532 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin lq
COPY --from=build /opt/venv /opt/venv
# Nothing is written at run time but /tmp: the root file system may be read-only.
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
USER 65532:65532
WORKDIR /
ENTRYPOINT ["lq-operator"]
CMD ["--help"]
