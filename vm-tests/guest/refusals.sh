#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# refusals.sh: what is refused, and what a full or attacked COW file does, on /dev/vda.
#
# The origin never suffers, tracking goes on when the snapshot is gone, and a foreign write into the
# COW file is not overlooked.
fail() {
    echo "FAILED: $*"
    exit 1
}
refused() {
    expected=$1
    shift
    "$@" >/dev/null 2>/tmp/said && fail "$* was not refused"
    grep -q "($expected)" /tmp/said || { cat /tmp/said && fail "$* was refused, but not with $expected"; }
}

mke2fs -q -t ext4 -b 4096 -E lazy_itable_init=0 /dev/vda || fail mke2fs
mount /dev/vda /mnt || fail mount
dd if=/dev/urandom of=/mnt/f bs=64k count=40 2>/dev/null
sync
refused EINVAL elioctl setup-snapshot /dev/vda /dev/shm/cow 0
refused ENOENT elioctl setup-snapshot /dev/nothing /mnt/cow 0
refused ENOTBLK elioctl setup-snapshot /dev/null /mnt/cow 0
refused EISDIR elioctl setup-snapshot /dev/vda /mnt 0
refused EINVAL elioctl setup-snapshot /dev/vda /mnt/cow 24
refused ENOENT elioctl destroy 0
elioctl setup-snapshot -f 8 /dev/vda /mnt/cow0 0 || fail setup-snapshot
refused EBUSY elioctl setup-snapshot /dev/vda /mnt/cow1 0
refused EINVAL elioctl setup-snapshot /dev/vda /mnt/cow1 1
[ ! -e /mnt/cow1 ] || fail "a file was left behind"
refused EINVAL elioctl transition-to-snapshot /mnt/cow1 0
rm -f /mnt/cow0 2>/dev/null && fail "the COW file could be removed"
exec 3</dev/elastio-snap0
refused EBUSY elioctl destroy 0
refused EBUSY elioctl transition-to-incremental 0
exec 3<&-

# Full: the snapshot fails, tracking goes on.
dd if=/dev/urandom of=/mnt/big bs=64k count=60 2>/dev/null
rm /mnt/f
sync
dd if=/dev/urandom of=/mnt/more bs=64k count=400 conv=fsync 2>/dev/null || fail "the origin suffered"
dd if=/dev/urandom of=/mnt/big bs=64k count=60 conv=notrunc,fsync 2>/dev/null || fail "the origin suffered"
for i in 1 2 3 4 5 6; do
    dd if=/dev/urandom of=/dev/vda bs=4k count=256 seek=$((24000 + i * 256)) oflag=direct conv=notrunc 2>/dev/null
done
elioctl info 0 | grep -q EFBIG || { elioctl info 0 && fail "the COW file is not full"; }
elioctl transition-to-incremental 0 || fail "a failed snapshot cannot be left"
elioctl info 0 | grep -q "change list *exact" || fail "the list suffered"

# A foreign write into the file's metadata: the list is lost, and says so.
elioctl transition-to-snapshot -f 8 /mnt/cow1 0 || fail transition-to-snapshot
block=$(debugfs -R 'bmap /cow1 0' /dev/vda 2>/dev/null)
dd if=/dev/zero of=/dev/vda bs=4k count=1 seek="$block" oflag=direct conv=notrunc 2>/dev/null
elioctl info 0 | grep -q "change list *lost" || { elioctl info 0 && fail "a foreign write was overlooked"; }
dd if=/dev/elastio-snap0 of=/dev/null bs=4k count=1 2>/dev/null && fail "the snapshot survived a foreign write"
elioctl destroy 0 || fail destroy
rmmod elastio_snap || fail rmmod
umount /mnt || fail umount
echo "refusals: everything held"
