#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# terabyte.sh: the cycle on a sparse disk of 1 TiB, /dev/vda:
#     ci/vm 6.12 --disk 1048576 -- vm-tests/guest/terabyte.sh
#
# Setting up writes less than 64 MiB, and prints how long it takes; an idle tracker needs less than
# 34 MiB; the finished file reads as zeroes where nothing changed, and update-img gets it right.
fail() {
    echo "FAILED: $*"
    elioctl info 0
    dmesg | tail -n 20
    exit 1
}
written() {
    read -r _ _ _ _ _ _ sectors _ </sys/block/vda/stat
    echo "$sectors"
}
seconds() {
    read -r now _ </proc/uptime
    echo "$now"
}
mke2fs -q -t ext4 -b 4096 -E lazy_itable_init=1,lazy_journal_init=1 /dev/vda || fail mkfs
# Without what the file system makes zero in the background.
mount -o noinit_itable /dev/vda /mnt || fail mount
dd if=/dev/urandom of=/mnt/f bs=64k count=16 2>/dev/null
sync
before=$(written) begun=$(seconds)
elioctl setup-snapshot /dev/vda /mnt/cow0 0 || fail setup-snapshot
ended=$(seconds) after=$(written)
kib=$(((after - before) / 2))
echo "terabyte: setup wrote $kib KiB, from $begun to $ended seconds"
[ "$kib" -lt 65536 ] || fail "setup wrote $kib KiB"
elioctl destroy 0 || fail destroy
# The index is 2 GiB; a little room for old data, because its blocks are in the list.
elioctl setup-snapshot -f 2200 /dev/vda /mnt/cow0 0 || fail setup-snapshot
elioctl transition-to-incremental 0 || fail transition-to-incremental
memory=$(elioctl info --json 0 | sed 's/.*"memory_bytes":\([0-9]*\).*/\1/')
echo "terabyte: $memory bytes of memory while idle"
[ "$memory" -lt $((34 << 20)) ] || fail "an idle tracker has $memory bytes"
dd if=/dev/urandom of=/mnt/f bs=64k count=16 conv=notrunc,fsync 2>/dev/null
before=$(written) begun=$(seconds)
elioctl transition-to-snapshot -f 2200 /mnt/cow1 0 || fail transition-to-snapshot
ended=$(seconds) after=$(written)
echo "terabyte: transition wrote $(((after - before) / 2)) KiB, from $begun to $ended seconds"
# The index is zeroes but for a few pages; those are there.
changed=$(dd if=/mnt/cow0 bs=1M count=2049 2>/dev/null | tr -d '\000' | wc -c)
echo "terabyte: $changed bytes of the header and the index are not zero"
[ "$changed" -gt 300 ] || fail "the index is empty"
[ "$changed" -lt 4000000 ] || fail "the index has $changed bytes"
elioctl destroy 0 || fail destroy
rmmod elastio_snap || fail rmmod
umount /mnt || fail umount
echo "terabyte: everything held"
