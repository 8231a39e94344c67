#!/bin/sh
# Makes a stand-in for docker.io/library/python:3.13-slim where no registry can be reached: Debian 13 with its own
# Python 3.13 in /usr/bin, tagged locally under that name. Where a registry can be reached, it is not needed.
# Needs root, mmdebstrap, buildah. Usage: hack/stand-in-base.sh FOLDER (keeps base.tar there for the next time)
set -eu
folder=${1:?folder for the root file system}
mkdir -p "$folder"
if [ ! -s "$folder/base.tar" ]; then
    mmdebstrap --quiet --variant=minbase \
        --include=python3,python3-pip,python3-venv,libpython3-dev,ca-certificates trixie "$folder/base.new.tar"
    mv "$folder/base.new.tar" "$folder/base.tar"
fi
cat > "$folder/Dockerfile" <<'DOCKERFILE'
FROM scratch
ADD base.tar /
RUN rm -f /usr/lib/python3*/EXTERNALLY-MANAGED \
 && for program in python python3; do ln -sf /usr/bin/python3 /usr/local/bin/$program; done \
 && ln -sf /usr/bin/pip3 /usr/local/bin/pip
ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8
CMD ["python3"]
DOCKERFILE
buildah bud --isolation chroot --pull-never --quiet -t docker.io/library/python:3.13-slim "$folder"
