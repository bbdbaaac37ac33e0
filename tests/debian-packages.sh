#!/usr/bin/env bash
# Installs the Debian packages that the tests and benchmarks use, when we are root; otherwise names what
# is missing in one line and goes on (a test that needs one of them says so itself).
# No daemon of theirs is left running: tgtd would hold port 3260, iscsid would log in by itself.
set -euo pipefail

packages=(
    libiscsi-bin            # iscsi-ls, iscsi-inq, iscsi-perf, iscsi-test-cu
    qemu-utils              # qemu-img, qemu-io
    qemu-block-extra        # their iscsi:// driver
    qemu-system-x86         # the virtual machine of the kernel initiator's test
    busybox-static cpio kmod  # what its initramfs is made with
    open-iscsi              # the kernel initiator's user space, for the virtual machine
    e2fsprogs xfsprogs fio sg3-utils udev dmsetup  # what runs inside it
    chromium                # the dashboard is driven in it
    openssl                 # the certificates of the TLS tests
    tgt tgt-rbd             # the peers of `make bench`
    gcc libc6-dev python3-dev  # its client and its echo in C; the compiled build
    ceph-mon ceph-osd ceph-common librados2  # the cluster behind the rados store
    redis-server            # the tracker of several nodes
    prometheus              # asks nodes and workers, and judges the alerts
    podman buildah podman-compose runc netavark aardvark-dns iptables debootstrap  # the containers
    iproute2                # loopback for the commands of the documentation
)

command -v dpkg-query >/dev/null || exit 0  # not Debian: the tests look for the programs themselves

missing=()
for package in "${packages[@]}"; do
    state=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" != 0 ]; then
    echo "missing Debian packages: sudo apt-get install ${missing[*]}" >&2
    exit 0
fi

# policy-rc.d answering 101 is Debian's own way to install a daemon without starting it.
policy=/usr/sbin/policy-rc.d
aside=$(mktemp -d)
restore() {
    rm -f "$policy"
    [ ! -e "$aside/policy-rc.d" ] || mv "$aside/policy-rc.d" "$policy"
    rm -rf "$aside"
}
trap restore EXIT
[ ! -e "$policy" ] || mv "$policy" "$aside/policy-rc.d"
printf '#!/bin/sh\nexit 101\n' >"$policy"
chmod +x "$policy"

echo "installing Debian packages: ${missing[*]}"
log=$aside/log
export DEBIAN_FRONTEND=noninteractive
if ! { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >"$log" 2>&1
then
    tail -n 20 "$log" >&2
    echo "could not install: ${missing[*]}" >&2
    exit 1
fi
# They were not started; nor shall they be at the next boot.  What was installed before stays as it is.
if command -v systemctl >/dev/null && [ -d /run/systemd/system ]; then
    for package in "${missing[@]}"; do
        case $package in
            tgt) systemctl disable --quiet tgt.service || true ;;
            open-iscsi)
                systemctl disable --quiet iscsid.socket iscsid.service open-iscsi.service || true
                ;;
            ceph-mon | ceph-osd)
                systemctl disable --quiet "$package.target" ceph-crash.service || true
                ;;
            redis-server) systemctl disable --quiet redis-server.service || true ;;
            ceph-common) systemctl disable --quiet ceph.target rbdmap.service || true ;;
        esac
    done
fi
