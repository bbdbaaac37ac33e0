#!/usr/bin/dash
# The guest's first process: it prepares the system, then obeys the host over two virtio serial
# ports, so that one command can run beside others.
#
# Protocol (see channel.py). Host: "ID SECONDS BASE64-SCRIPT\n". Guest: "ID STATUS LENGTH\n", then LENGTH
# bytes of output, stdout and stderr together. The commands of one port run one after the other.
export PATH=/usr/sbin:/usr/bin:/usr/bbin HOME=/root TERM=dumb

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mkdir -p /run/lock/iscsi /mnt
ln -s /proc/self/fd /dev/fd

# One after the other: a name that is missing must not hide the ones behind it.
while read -r module; do
    modprobe "$module" || echo "cannot load $module"
done < /etc/modules

# The guest's 127.0.0.1 is the host's. A target that listens on the host's loopback tells an
# initiator in SendTargets to log in to 127.0.0.1, so the guest gives its own loopback addresses up
# and routes them to QEMU's user network, which connects to them on the host. No relay, no address
# translation, and any number of portals.
ip link set lo up
ip addr del 127.0.0.1/8 dev lo
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
sysctl -q -w net.ipv4.conf.all.route_localnet=1
ip route add 127.0.0.0/8 via 10.0.2.2 dev eth0
# As much as iscsid.conf asks for (initramfs.py says why).
sysctl -q -w net.core.rmem_max=134217728

syslogd -O /run/syslog

# $1: the port's place. Whoever loses the host ends the guest: the host is done with it, or dead.
obey() {
    # The driver makes a port's device when QEMU's message about it arrives, not when it is loaded.
    until port=$(ls /sys/class/virtio-ports | sed -n "$1p") && [ -c "/dev/$port" ]; do
        usleep 10000
    done
    exec 3<> "/dev/$port"
    echo "READY" >&3
    while read -r id seconds script <&3; do
        echo "$script" | base64 -d > "/run/command$1"
        # By its path, or busybox would run its own shell (initramfs.py says why not). With -e, so
        # that no failure in the middle of a script goes unseen.
        timeout -s KILL "$seconds" /usr/bin/sh -e "/run/command$1" < /dev/null > "/run/output$1" 2>&1
        echo "$id $? $(stat -c %s "/run/output$1")" >&3
        cat "/run/output$1" >&3
    done
    poweroff -f
}

obey 1 &
obey 2
