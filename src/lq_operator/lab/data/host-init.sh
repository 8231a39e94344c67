#!/bin/bash
# PID 1 of one lab host, in fresh network, mount, UTS, IPC and PID namespaces.
# Environment: LQ_ROOT (the host's own folder), LQ_NAME, LQ_INDEX, LQ_TRANSPORT (tls|tcp|ssh), LQ_KVM (1: show /dev/kvm).
R=$LQ_ROOT
hostname "$LQ_NAME"
mount --make-rprivate /
# Named network namespaces of this and other labs: a copy of their mounts here would keep them alive after their end.
for ns in /run/netns/*; do umount -l "$ns" 2>/dev/null; done
# A fresh sysfs shows this namespace's links; without the cgroup mounts libvirt does not try to make groups of its own.
umount -R /sys; mount -t sysfs sysfs /sys
bind() { mkdir -p "$R/$1" "$2" && mount --bind "$R/$1" "$2"; }
bind varlib /var/lib/libvirt; bind varlog /var/log/libvirt; bind cache /var/cache/libvirt; bind etc /etc/libvirt
# swtpm keeps an authority of its own and logs: never on the machine's.
for d in /var/lib/swtpm-localca /var/log/swtpm; do [ -d $d ] && bind "private$d" $d; done
mount -t tmpfs tmpfs /run; mkdir -p /run/libvirt /run/lock /run/sshd
mount --bind "$R/hosts" /etc/hosts
mkdir /run/ndev; mount -t tmpfs -o mode=755 dev /run/ndev; mkdir /run/ndev/{net,pts,shm}
nodes="null zero full random urandom tty fuse net/tun loop-control loop0 loop1 loop2 loop3 loop4 loop5 loop6 loop7"
# Without a usable /dev/kvm none is shown: libvirt would probe it again at every start.
[ "$LQ_KVM" = 1 ] && nodes="$nodes kvm vhost-net"
for n in $nodes; do [ -e /dev/$n ] && cp -a /dev/$n /run/ndev/$n; done
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts /run/ndev/pts; ln -s pts/ptmx /run/ndev/ptmx
ln -s /proc/self/fd /run/ndev/fd; mount -t tmpfs shm /run/ndev/shm
mount --move /run/ndev /dev
ip link set lo up
while ! [ -e /sys/class/net/eth0 -a -e /sys/class/net/eth1 ]; do sleep .01; done
ip addr add 10.78.0.$((10 + LQ_INDEX))/24 dev eth0; ip link set eth0 up
ip addr add 10.78.1.$((10 + LQ_INDEX))/24 dev eth1; ip link set eth1 up
echo 1 > /proc/sys/net/ipv4/ip_forward
[ "$LQ_TRANSPORT" = ssh ] && /usr/sbin/sshd -f "$R/ssh/sshd_config"
if [ "$LQ_TRANSPORT" = ssh ]; then libvirtd -d; else libvirtd -d --listen; fi
trap 'exit 0' TERM
while :; do sleep 86400 & wait $!; done
