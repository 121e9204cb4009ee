#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# bench.sh: what ci/bench measures, in a machine of ci/vm --icount that did not load the module. Prints
# lines `figure NAME VALUE`: instructions per block of 4 KiB, or what the name says.
#
# Three times a null_blk in memory: one that answers at once, for what a block costs; one that takes a
# millisecond for a read, for whether as many reads of the snapshot are on their way as of the origin;
# one of 1 TiB, for setting up.
#
# The file system lies in the first half of a null_blk in memory, the blocks that are read and written
# behind it, so that nobody else touches them; all of it was written before, so that the disk itself
# allocates nothing; nothing of it is made in the background. Each phase begins with a clean page cache,
# and takes the least of several runs: the others had more interrupts.
bench=/elio-bench
count=2000
span=8192
fail() {
    echo "FAILED: $*"
    exit 1
}
fill() { dd if=/dev/zero of="$1" bs=1M count="$2" oflag=direct 2>/dev/null || fail "fill $1"; }
once() { "$bench" "$@" || fail "bench $*"; }
settle() {
    sync
    echo 1 >/proc/sys/vm/drop_caches
    sleep 1
}
# least NAME OP DEVICE FIRST: five times the same blocks.
least() {
    settle
    for _ in 1 2 3 4 5; do once "$2" "$3" "$4" $span $count; done | sort -n | sed -n "1s/^/figure $1 /p"
}
# fresh NAME OP DEVICE FIRST: three times blocks that nobody met.
fresh() {
    settle
    for at in 0 1 2; do once "$2" "$3" $(($4 + at * span)) $span $count; done | sort -n | sed -n "1s/^/figure $1 /p"
}
# Sectors read, writes, sectors written.
stat() { awk '{ print $3, $5, $7 }' /sys/block/nullb0/stat; }

insmod /lib/null_blk.ko nr_devices=2 gb=1 queue_mode=2 irqmode=0 memory_backed=1 hw_queue_depth=64 ||
    fail "null_blk does not load"
chmod +x $bench
fill /dev/nullb0 384
fill /dev/nullb1 256
sleep 10
least raw-read r /dev/nullb0 65536
least raw-write w /dev/nullb1 8192
mke2fs -q -t ext4 -b 4096 /dev/nullb0 49152 || fail mke2fs
mount -o noinit_itable /dev/nullb0 /mnt || fail mount
least read r /dev/nullb0 65536
least write w /dev/nullb0 65536

insmod /elastio-snap.ko || fail "the module does not load"
sleep 3
least loaded-write w /dev/nullb0 65536
elioctl setup-snapshot -f 120 /dev/nullb0 /mnt/cow0 0 || fail setup-snapshot
sleep 2
least other-write w /dev/nullb1 8192
least origin-read r /dev/nullb0 65536
least snapshot-read r /dev/elastio-snap0 65536
settle
before=$(stat)
fresh snapshot-first w /dev/nullb0 49152
sleep 1
# Each run reads fifty blocks beforehand.
echo "$before $(stat)" | awk -v n=$((3 * count)) '{
    print "figure first-read-bytes", (($4 - $1) * 512 - 3 * 50 * 4096) / n
    print "figure first-written-bytes", ($6 - $3) * 512 / n - 4096 }'
least snapshot-repeat w /dev/nullb0 49152
least snapshot-read-copied r /dev/elastio-snap0 49152

elioctl transition-to-incremental 0 || fail transition-to-incremental
sleep 2
# One block of each region, then more of them, then again.
settle
before=$(stat)
echo "figure incremental-region $(once w /dev/nullb0 81920 16384 16)"
echo "$before $(stat)" | awk '{ print "figure region-pages", ($5 - $2 - 16) / 16 }'
fresh incremental-first w /dev/nullb0 73728
least incremental-repeat w /dev/nullb0 49152
elioctl destroy 0
rmmod elastio_snap || fail rmmod
umount /mnt

insmod /lib/dm-snapshot.ko || fail "dm-snapshot does not load"
sectors=$((384 * 2048))
dm() { DM_DISABLE_UDEV=1 dmsetup create "$1" --table "0 $sectors $2" || fail "dmsetup create $1"; }
least dm-raw-write w /dev/nullb0 65536
least dm-raw-read r /dev/nullb0 65536
dm snap "snapshot /dev/nullb0 /dev/nullb1 N 8"
dm origin "snapshot-origin /dev/nullb0"
least dm-snapshot-read r /dev/dm-0 65536
fresh dm-snapshot-first w /dev/dm-1 49152
least dm-snapshot-repeat w /dev/dm-1 49152
least dm-snapshot-read-copied r /dev/dm-0 49152
for name in origin snap; do DM_DISABLE_UDEV=1 dmsetup remove $name || fail "dmsetup remove $name"; done
rmmod null_blk || fail "null_blk does not go"

# Thirty-two reads at a time: the rate that is lost, in per cent of the origin's.
disk() {
    insmod /lib/null_blk.ko nr_devices=1 queue_mode=2 memory_backed=1 hw_queue_depth=64 "$@" ||
        fail "null_blk does not load"
}
rate() { once r32 "$1" "$2" 4096 4096; }
lost() { echo "$2 $3" | awk -v name="$1" '{ print "figure " name, ($2 - $1) / $2 * 100 }'; }
disk gb=1 irqmode=2 completion_nsec=1000000
mke2fs -q -t ext4 -b 4096 /dev/nullb0 32768 || fail mke2fs
mount -o noinit_itable /dev/nullb0 /mnt || fail mount
dd if=/dev/zero of=/dev/nullb0 bs=1M seek=128 count=32 oflag=direct 2>/dev/null || fail fill
insmod /elastio-snap.ko || fail "the module does not load"
elioctl setup-snapshot -f 64 /dev/nullb0 /mnt/cow0 0 || fail setup-snapshot
origin=$(rate /dev/nullb0 32768)
lost rate-lost "$origin" "$(rate /dev/elastio-snap0 32768)"
dd if=/dev/zero of=/dev/nullb0 bs=1M seek=128 count=16 oflag=direct 2>/dev/null || fail overwrite
sleep 1
lost rate-lost-copied "$origin" "$(rate /dev/elastio-snap0 32768)"
elioctl destroy 0
umount /mnt
rmmod null_blk || fail "null_blk does not go"

# Virtual milliseconds, waiting included.
now() { awk '{ print $1 * 1000 }' /proc/uptime; }
disk gb=1024 irqmode=0
mke2fs -q -t ext4 -b 4096 -E lazy_itable_init=1,lazy_journal_init=1 /dev/nullb0 || fail mke2fs
mount -o noinit_itable /dev/nullb0 /mnt || fail mount
dd if=/dev/zero of=/mnt/f bs=64k count=16 2>/dev/null
settle
before=$(stat) begun=$(now)
elioctl setup-snapshot /dev/nullb0 /mnt/cow0 0 || fail setup-snapshot
echo "$begun $(now) $before $(stat)" | awk '{
    print "figure setup-time", $2 - $1
    print "figure setup-written", ($8 - $5) / 2048 }'
elioctl transition-to-incremental 0 || fail transition-to-incremental
elioctl info --json 0 | sed 's/.*"memory_bytes":\([0-9]*\).*/\1/' | awk '{ print "figure idle-memory", $1 / 1048576 }'
elioctl destroy 0
echo "bench: done"
