#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# removal.sh: devices that go, on /dev/vda:
#     ci/vm 6.12 --disk 64 -- vm-tests/guest/removal.sh
#
# A device whose volume is not mounted can be removed, whatever is tracked on it; a mount that fails is
# no mount; one that is gone can still be destroyed, and its number belongs to the next one.
fail() {
    echo "FAILED: $*"
    elioctl info 0
    dmesg | tail -n 20
    exit 1
}
state() {
    elioctl info 0 | grep -q "state *$1" || fail "not $1"
}
make() {
    echo "0 $(cat /sys/block/vda/size) linear /dev/vda 0" | dmsetup create "$1" || fail dmsetup
    dmsetup mknodes
}
make first
mke2fs -q -F -t ext4 -b 4096 /dev/mapper/first || fail mke2fs
mount /dev/mapper/first /mnt || fail mount
elioctl setup-snapshot -f 4 /dev/mapper/first /mnt/cow 0 || fail setup-snapshot
elioctl transition-to-incremental 0 || fail transition-to-incremental
dmsetup remove first 2>/dev/null && fail "a mounted device was removed"
umount /mnt || fail umount
state "dormant incremental"
mount -t xfs /dev/mapper/first /mnt 2>/dev/null && fail "mounted as something else"
state "dormant incremental"
elioctl info 0 | grep -q "notice *none" || fail "a failed mount was taken for one"
mount -o ro /dev/mapper/first /mnt || fail mount
state "dormant incremental"
mount -o remount,rw /mnt || fail remount
state "active incremental"
mount -o remount,ro /mnt || fail remount
state "dormant incremental"
umount /mnt || fail umount
dmsetup remove first || fail "a device that is not mounted cannot be removed"
state "dormant incremental"
make second
mount /dev/mapper/second /mnt || fail mount
elioctl setup-snapshot -f 4 /dev/mapper/second /mnt/cow2 1 || fail "another device cannot be tracked"
elioctl destroy 0 || fail "what is gone cannot be destroyed"
umount -l /mnt || fail umount
elioctl destroy 1 || fail destroy
dmsetup remove second || fail "a device is not let go"
rmmod elastio_snap || fail rmmod
e2fsck -fn /dev/vda || fail "the file system is damaged"
echo "removal: everything held"
