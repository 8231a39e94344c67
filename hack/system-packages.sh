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
ensure_user() {
  # libvirtd refuses to start where the user that it runs guests as was not made (libvirt-daemon-system does, which we do not need).
  [ "$(id -u)" = 0 ] || return 0
  getent passwd libvirt-qemu >/dev/null && return 0
  groupadd -rf libvirt-qemu
  useradd -r -g libvirt-qemu -d /nonexistent -s /usr/sbin/nologin libvirt-qemu
}
missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && { ensure_user; exit 0; }
command="apt-get install -y --no-install-recommends ${missing[*]}"
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "installing: ${missing[*]}"
  apt-get update -q >/dev/null
  DEBIAN_FRONTEND=noninteractive $command >/dev/null
else
  echo "missing system packages; run: sudo $command" >&2
  exit 1
fi
ensure_user
