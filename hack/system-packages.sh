#!/usr/bin/env bash
# System packages that the lab and the tests need. Installs them where it may (root on Debian or Ubuntu), names the command otherwise.
#   hack/system-packages.sh [build]     `build` adds what an image build takes
set -euo pipefail
packages=(
  libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients qemu-system-x86 qemu-utils dnsmasq-base
  nftables iptables ebtables iproute2 kmod cpio swtpm swtpm-tools ovmf dosfstools mtools syslinux syslinux-common
  openssh-server openssh-client curl ca-certificates
  libvirt-dev pkg-config gcc python3-dev
)
[ "${1:-}" = build ] && packages+=(buildah mmdebstrap)
missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0
command="apt-get install -y --no-install-recommends ${missing[*]}"
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "installing: ${missing[*]}"
  apt-get update -q >/dev/null
  DEBIAN_FRONTEND=noninteractive $command >/dev/null
else
  echo "missing system packages; run: sudo $command" >&2
  exit 1
fi
# libvirtd refuses to start where its package has not made the users it runs guests as.
getent passwd libvirt-qemu >/dev/null || { groupadd -rf libvirt-qemu; useradd -r -g libvirt-qemu -d /nonexistent -s /usr/sbin/nologin libvirt-qemu; }
