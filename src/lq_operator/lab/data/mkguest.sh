#!/bin/bash
# mkguest.sh DATA WORK OUT: builds OUT/vmlinuz and OUT/initrd.gz: Debian's cloud kernel, busybox, qemu-ga, a mini NoCloud.
# WORK keeps the downloaded packages; DATA holds guest-init and udhcpc.script.
set -e
DATA=$1 WORK=$2 OUT=$3; mkdir -p "$WORK/dl" "$OUT"; cd "$WORK/dl"
have() { ls $1 >/dev/null 2>&1; }
fetch() { apt-get download -q "$@" >&2 || { echo "cannot download $*: run apt-get update first" >&2; exit 1; }; }
if ! have 'linux-image-6*cloud-amd64_*.deb'; then
  K=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image-[0-9]/{print $2; exit}')
  [ -n "$K" ] || { echo 'no package linux-image-cloud-amd64 is known here: run apt-get update (Debian only)' >&2; exit 1; }
  fetch "$K"
fi
for p in busybox-static qemu-guest-agent; do have "${p}_*.deb" || fetch $p; done
KD=$WORK/kern; rm -rf $KD "$WORK/bb" "$WORK/ga"
dpkg -x "$(ls linux-image-*cloud-amd64_*.deb | head -1)" "$KD"
dpkg -x "$(ls busybox-static_*.deb | head -1)" "$WORK/bb"; dpkg -x "$(ls qemu-guest-agent_*.deb | head -1)" "$WORK/ga"
cp "$KD"/boot/vmlinuz-* "$OUT/vmlinuz"
I=$WORK/ird; rm -rf "$I"; mkdir -p "$I"/{bin,lib,lib64,dev,proc,sys,tmp,etc,mnt,run,var/run,usr/sbin,root,usr/share/udhcpc,modules}
BB=$(ls "$WORK"/bb/bin/busybox "$WORK"/bb/usr/bin/busybox 2>/dev/null | head -1); cp "$BB" "$I/bin/busybox"
cp "$WORK/ga/usr/sbin/qemu-ga" "$I/usr/sbin/"
for so in $(ldd "$I/usr/sbin/qemu-ga" | grep -o '/[^ ]*'); do cp -L "$so" "$I/lib/"; done; mv "$I"/lib/ld-linux* "$I/lib64/"
MD=$(ls -d "$KD"/lib/modules/* "$KD"/usr/lib/modules/* 2>/dev/null | head -1); V=$(basename "$MD")
depmod -b "$KD" "$V" 2>/dev/null || true
want="virtio_pci virtio_blk virtio_net virtio_console virtio_balloon virtio_mem virtio-rng virtio_scsi sd_mod sr_mod isofs
 ext4 button evdev 8021q virtio_input af_packet vfat nls_ascii nls_cp437 efivarfs qemu_fw_cfg"
: > "$I/modules/order"
for m in $want; do
  modprobe -d "$KD" -S "$V" --show-depends $m 2>/dev/null | awk '/insmod/{print $2}' | while read -r f; do
    b=$(basename "$f"); grep -qx "$b" "$I/modules/order" || { echo "$b" >> "$I/modules/order"; cp "$f" "$I/modules/"; }
  done
done
[ -s "$I/modules/order" ] || { echo "no kernel modules found in $KD (is kmod installed?)" >&2; exit 1; }
# The modules are not stripped: under Secure Boot the kernel refuses modules without their signature.
cp "$DATA/guest-init" "$I/init"; cp "$DATA/udhcpc.script" "$I/usr/share/udhcpc/default.script"
cp "$DATA/guest-netplan.awk" "$DATA/guest-runcmd.awk" "$I/etc/"
chmod +x "$I/init" "$I/usr/share/udhcpc/default.script"
(cd "$I" && find . | LC_ALL=C sort | cpio -o -H newc --quiet | gzip -9n > "$OUT/initrd.gz")
