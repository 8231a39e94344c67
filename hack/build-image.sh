#!/bin/sh
# Builds the image with buildah, without a container engine. Usage: hack/build-image.sh [TAG]
# PULL=never uses a local base image only (see stand-in-base.sh). The machine's CA bundle is mounted while building, so
# that package mirrors behind a private authority are trusted; it does not become part of the image.
set -eu
cd "$(dirname "$0")/.."
tag=${1:-localhost/lq-operator:$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)}
bundle=/etc/ssl/certs/ca-certificates.crt
set -- --isolation chroot --layers
[ "${PULL:-missing}" = never ] && set -- "$@" --pull-never
[ -f "$bundle" ] && set -- "$@" -v "$bundle:$bundle:ro" --build-arg "PIP_CERT=$bundle"
[ -n "${PIP_INDEX_URL:-}" ] && set -- "$@" --build-arg "PIP_INDEX_URL=$PIP_INDEX_URL"
exec buildah bud "$@" -t "$tag" .
