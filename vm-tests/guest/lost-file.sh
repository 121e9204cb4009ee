#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# lost-file.sh: files that cannot be found again, on /dev/vda and /dev/vdb:
#     ci/vm 6.12 --disk 64 --disk 64 -- vm-tests/guest/lost-file.sh
#
# Missing, renamed, foreign, truncated, sparse, superseded, of another series, of another mode, in use:
# refused with an error and a reason, changed by nobody, and found when it is there again; a file that
# went while its volume was unmounted is not written to any more, and the list says so.
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
told() {
    elioctl info 0 | grep -q "$1" || fail "nobody says: $1"
}
again() {
    rmmod elastio_snap || fail rmmod
    insmod /elastio-snap.ko || fail insmod
}
# Tries a reload of $2 as $1 that must fail with $3 and the words $4.
bad() {
    elioctl reload-"$1" /dev/vda "$2" 0 || fail "reload $2"
    mount /dev/vda /mnt || fail mount
    told "state *unverified"
    told "error .*$3"
    told "notice *$4"
    dmesg | grep -q "minor 0 has not got its file: $4" || fail "not in the log: $4"
    refused EINVAL elioctl transition-to-snapshot /mnt/next 0
    elioctl destroy 0 || fail destroy
    umount /mnt || fail umount
}

mke2fs -q -F -t ext4 -b 4096 /dev/vda || fail mke2fs
mount /dev/vda /mnt || fail mount
elioctl setup-snapshot -f 4 /dev/vda /mnt/old 0 || fail setup-snapshot
elioctl transition-to-incremental 0 || fail transition-to-incremental
elioctl transition-to-snapshot -f 4 /mnt/cow 0 || fail transition-to-snapshot
elioctl transition-to-incremental 0 || fail transition-to-incremental
umount /mnt || fail umount
again
# What is no file of ours.
mount /dev/vda /mnt || fail mount
cp /mnt/cow /mnt/copy && truncate -s 100000 /mnt/copy
cp /mnt/cow /mnt/foreign && printf x | dd of=/mnt/foreign bs=1 seek=20 conv=notrunc 2>/dev/null
dd if=/dev/urandom of=/mnt/noise bs=64k count=4 2>/dev/null
truncate -s 600000 /mnt/sparse
dd if=/mnt/cow of=/mnt/sparse bs=4k count=1 conv=notrunc 2>/dev/null
mkdir /mnt/dir
umount /mnt || fail umount

refused ENOENT elioctl reload-incremental /dev/nothing /cow 0
refused ENOTBLK elioctl reload-incremental /dev/null /cow 0
refused EINVAL elioctl reload-incremental /dev/vda /cow 24
bad incremental /missing ENOENT "there is no such file"
bad incremental /dir/none ENOENT "there is no such file"
bad incremental /cow/none ENOENT "there is no such file"
bad incremental /dir EINVAL "the file is of a kind"
bad incremental /noise EINVAL "the file is no copy-on-write file"
bad incremental /copy EINVAL "the file is truncated"
bad incremental /sparse EINVAL "the file is truncated or has holes"
bad incremental /foreign EINVAL "another driver wrote"
bad incremental /old EINVAL "the file's epoch is over"

# Renamed: found when the name is right again, with what was written meanwhile. (Nobody tracked what the
# mounts above changed, which the superblock tells.)
elioctl reload-incremental /dev/vda /cow 0 || fail reload
refused EBUSY elioctl reload-incremental /dev/vda /cow 0
refused EINVAL elioctl reload-incremental /dev/vda /cow 1
mount /dev/vda /mnt || fail mount
told "state *active incremental"
told "change list *lost(untracked writes)"
told "notice *none"
refused EINVAL elioctl reload-incremental /dev/vda /cow 1
elioctl transition-to-snapshot -f 4 /mnt/third 0 || fail transition-to-snapshot
umount /mnt || fail umount
again
# In the wrong mode, then in the right one.
bad incremental /third EINVAL "the file was closed in the other mode"

# Gone while it was unmounted: nothing is written to where it was.
mke2fs -q -F -t ext4 -b 4096 /dev/vdb || fail mke2fs
mount /dev/vdb /mnt || fail mount
elioctl setup-snapshot -f 4 /dev/vdb /mnt/cow 0 || fail setup-snapshot
elioctl transition-to-incremental 0 || fail transition-to-incremental
umount /mnt || fail umount
told "state *dormant incremental"
mke2fs -q -F -t ext4 -b 4096 /dev/vdb || fail mke2fs
mount /dev/vdb /mnt || fail mount
told "notice *there is no such file"
told "change list *lost"
dd if=/dev/urandom of=/mnt/f bs=1M count=40 conv=fsync 2>/dev/null
first=$(md5sum </mnt/f)
sync
echo 3 >/proc/sys/vm/drop_caches
[ "$first" = "$(md5sum </mnt/f)" ] || fail "somebody wrote into another's file"
elioctl destroy 0 || fail destroy
umount /mnt || fail umount
e2fsck -fn /dev/vdb || fail "the file system is damaged"
rmmod elastio_snap || fail rmmod
e2fsck -fn /dev/vda || fail "the file system is damaged"
echo "lost-file: everything held"
