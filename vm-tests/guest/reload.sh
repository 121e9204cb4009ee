#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# reload.sh [MKFS [MOUNT OPTIONS]]: the module goes and comes back, on /dev/vda, in a machine of ci/vm:
#     ci/vm 6.12 --disk 128 -- vm-tests/guest/reload.sh
#     ci/vm 7.3 --disk 320 -- vm-tests/guest/reload.sh mkfs.xfs
#
# What was tracked before, while the file was not found yet, and after, is all in the list: an image
# brought up to date by update-img is the next snapshot bit for bit. A snapshot that was closed in
# order reads the same when it is back.
mkfs=${1:-mke2fs -q -t ext4 -b 4096}
shift
fail() {
    echo "FAILED: $*"
    elioctl info 0
    dmesg | tail -n 20
    exit 1
}
refused() {
    expected=$1
    shift
    "$@" >/dev/null 2>/tmp/said && fail "$* was not refused"
    grep -q "($expected)" /tmp/said || { cat /tmp/said && fail "$* was refused, but not with $expected"; }
}
state() {
    elioctl info 0 | grep -q "state *$1" || fail "not $1"
}
exact() {
    elioctl info 0 | grep -q "change list *exact" || fail "the list is not exact"
}
write() {
    dd if=/dev/urandom of=/mnt/w"$1" bs=4k count=600 2>/dev/null
    rm -f /mnt/d/f"$1"
    dd if=/dev/urandom of=/mnt/d/f$(($1 + 1)) bs=4k count=100 conv=notrunc seek=20 2>/dev/null
    sync
}
again() {
    rmmod elastio_snap || fail rmmod
    insmod /elastio-snap.ko || fail insmod
}
# Brings the image up to date from the file $1 and compares.
update() {
    update-img /dev/elastio-snap0 "$1" /tmp/image 2>/dev/null || fail "update-img $1"
    cmp /dev/elastio-snap0 /tmp/image || fail "the image is not the snapshot"
}

$mkfs /dev/vda >/dev/null || fail mkfs
mount "$@" /dev/vda /mnt || fail mount
mkdir /mnt/d
for i in 1 2 3 4 5 6 7 8 9 10 11 12; do dd if=/dev/urandom of=/mnt/d/f$i bs=64k count=20 2>/dev/null; done
sync
elioctl setup-snapshot -f 16 /dev/vda /mnt/cow0 0 || fail setup-snapshot
dd if=/dev/elastio-snap0 of=/tmp/image bs=1M 2>/dev/null
elioctl transition-to-incremental 0 || fail transition-to-incremental
write 1

# Unmounted, unloaded, loaded, written to, mounted.
refused EINVAL elioctl reload-incremental /dev/vda /cow0 1
umount /mnt || fail umount
state "dormant incremental"
again
elioctl reload-incremental /dev/vda /cow0 0 || fail reload-incremental
state "unverified incremental"
refused EINVAL elioctl transition-to-snapshot /cow1 0
blocks=$(($(cat /sys/block/vda/size) / 8))
dd if=/dev/urandom of=/dev/vda bs=4k count=1 seek=$((blocks - 1)) oflag=direct conv=notrunc 2>/dev/null
mount "$@" /dev/vda /mnt || fail mount
state "active incremental"
exact
rm /mnt/cow0 2>/dev/null && fail "the COW file could be removed"
write 3
elioctl transition-to-snapshot -f 12 /mnt/cow1 0 || fail transition-to-snapshot
write 5
update /mnt/cow0

# The same with a snapshot, twice.
first=$(md5sum </dev/elastio-snap0)
umount /mnt || fail umount
state "dormant snapshot"
again
refused ENOENT elioctl info 0
elioctl reload-snapshot /dev/vda cow1 0 || fail reload-snapshot
state "unverified snapshot"
[ ! -e /dev/elastio-snap0 ] || fail "a node before the file was found"
# Read-only first: what a mount writes before the file is found could not be kept.
mount -o ro "$@" /dev/vda /mnt || fail mount
exact
state "dormant snapshot"
[ "$first" = "$(md5sum </dev/elastio-snap0)" ] || fail "the snapshot changed"
mount -o remount,rw /mnt || fail remount
state "active snapshot"
[ "$first" = "$(md5sum </dev/elastio-snap0)" ] || fail "the snapshot changed"
write 7
[ "$first" = "$(md5sum </dev/elastio-snap0)" ] || fail "the snapshot changed while written to"
elioctl transition-to-incremental 0 || fail transition-to-incremental

# Unmounted and mounted again: tracked all the while.
umount /mnt || fail umount
state "dormant incremental"
dd if=/dev/urandom of=/dev/vda bs=4k count=1 seek=$((blocks - 2)) oflag=direct conv=notrunc 2>/dev/null
mount "$@" /dev/vda /mnt || fail mount
state "active incremental"
rm /mnt/cow1 2>/dev/null && fail "the COW file could be removed"
write 9
elioctl transition-to-snapshot -f 12 /mnt/cow2 0 || fail transition-to-snapshot
update /mnt/cow1
elioctl destroy 0 || fail destroy
[ ! -e /mnt/cow2 ] || fail "the COW file is still there"
rmmod elastio_snap || fail rmmod
umount /mnt || fail umount
case $mkfs in
    *xfs*) xfs_repair -n /dev/vda >/tmp/log 2>&1 || { cat /tmp/log && fail "the file system is damaged"; } ;;
    *) e2fsck -fn /dev/vda || fail "the file system is damaged" ;;
esac
echo "reload: everything held"
