#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# cycle.sh [MKFS [MOUNT OPTIONS]]: the cycle of the README on /dev/vda, in a machine of ci/vm:
#     ci/vm 6.12 --disk 128 -- vm-tests/guest/cycle.sh
#     ci/vm 7.3 --disk 320 -- vm-tests/guest/cycle.sh mkfs.xfs
#
# The snapshot reads the same while and after the volume is written to, buffered and direct; an
# image brought up to date by update-img is the next snapshot bit for bit; the file system is clean
# afterwards and the module goes.
mkfs=${1:-mke2fs -q -t ext4 -b 4096}
shift
fail() {
    echo "FAILED: $*"
    exit 1
}

# Overwrites, removes, appends, direct and buffered, and discards.
write() {
    dd if=/dev/urandom of=/mnt/w"$1" bs=4k count=1000 2>/dev/null
    rm -f /mnt/d/f"$1"
    dd if=/dev/urandom of=/mnt/d/f$(($1 + 1)) bs=4k count=100 conv=notrunc seek=20 2>/dev/null
    sync
    dd if=/dev/urandom of=/mnt/o"$1" bs=64k count=8 oflag=direct 2>/dev/null
    fstrim /mnt
    sync
}

$mkfs /dev/vda >/dev/null || fail mkfs
mount "$@" /dev/vda /mnt || fail mount
mkdir /mnt/d
for i in 1 2 3 4 5 6 7 8; do dd if=/dev/urandom of=/mnt/d/f$i bs=64k count=40 2>/dev/null; done
sync

elioctl setup-snapshot -f 16 /dev/vda /mnt/cow0 0 || fail setup-snapshot
write 1 &
first=$(md5sum </dev/elastio-snap0)
wait
second=$(md5sum </dev/elastio-snap0)
direct=$(dd if=/dev/elastio-snap0 bs=1M iflag=direct 2>/dev/null | md5sum)
echo "$first $second $direct"
[ "$first $first" = "$second $direct" ] || fail "the snapshot changed"
dd if=/dev/elastio-snap0 of=/tmp/image bs=1M 2>/dev/null
[ "$(md5sum </tmp/image)" = "$first" ] || fail "the copy is not the snapshot"

elioctl transition-to-incremental 0 || fail transition-to-incremental
[ ! -e /dev/elastio-snap0 ] || fail "the snapshot's node is still there"
write 3
write 5
elioctl transition-to-snapshot -f 12 /mnt/cow1 0 || fail transition-to-snapshot
write 7
update-img /dev/elastio-snap0 /mnt/cow0 /tmp/image 2>/dev/null || fail update-img
cmp /dev/elastio-snap0 /tmp/image || fail "the image is not the snapshot"

elioctl destroy 0 || fail destroy
[ ! -e /mnt/cow1 ] || fail "the COW file is still there"
rmmod elastio_snap || fail rmmod
umount /mnt || fail umount
case $mkfs in
    *xfs*) xfs_repair -n /dev/vda >/tmp/log 2>&1 || { cat /tmp/log && fail "the file system is damaged"; } ;;
    *) e2fsck -fn /dev/vda || fail "the file system is damaged" ;;
esac
echo "cycle: everything held"
