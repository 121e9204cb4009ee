#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# load.sh [ROUNDS [MKFS]]: snapshots under load on /dev/vda and on null_blk, in a machine of ci/vm:
#     ci/vm 6.12 --disk 128 --limit 900 -- vm-tests/guest/load.sh
#
# While several jobs write, buffered and direct, with many writes on their way, the snapshot must
# read the same again and again, by large and small direct reads and through the page cache; also
# after transitions under the same load, after which an image brought up to date is the snapshot
# bit for bit. At the end the module goes while the jobs still write.
rounds=${1:-2}
mkfs=${2:-mke2fs -q -t ext4 -b 4096 -J size=4}
fail() {
    echo
    echo "FAILED: $*"
    cat /tmp/error /proc/elastio-info
    exit 1
}

insmod /lib/null_blk.ko nr_devices=0 || fail "null_blk does not load"
mount -t configfs configfs /sys/kernel/config || fail "configfs"
mkdir /sys/kernel/config/nullb/nullb0
while read -r key value; do echo "$value" >/sys/kernel/config/nullb/nullb0/"$key"; done <<END
size 128
queue_mode 2
irqmode 1
memory_backed 1
discard 1
power 1
END

# Whatever is in both, all at once.
load() {
    fio --directory="$1" --size=8M --rw=randwrite --time_based --runtime=3000 --randrepeat=0 --group_reporting \
        --output=/tmp/fio"$2" --eta=never \
        --name=direct --bs=4k --direct=1 --ioengine=libaio --iodepth=16 \
        --name=sizes --bsrange=512-64k --direct=1 --ioengine=libaio --iodepth=8 \
        --name=buffered --bs=4k --ioengine=psync --fsync=64 &
}

# hash_of NODE SIZE [FLAGS]: by reads of that size.
hash_of() {
    dd if="$1" bs="$2" "${3:-iflag=fullblock}" 2>/tmp/error | md5sum | cut -d' ' -f1
    ! grep rror /tmp/error
}

# check MINOR: the snapshot reads the same, whatever reads it.
check() {
    node=/dev/elastio-snap$1
    first=$(hash_of "$node" 1M iflag=direct)
    for kind in 64k 1M; do
        again=$(hash_of "$node" "$kind" iflag=direct)
        [ "$first" = "$again" ] || fail "minor $1: the snapshot changed: $first, then $again by reads of $kind"
    done
    again=$(hash_of "$node" 64k)
    [ "$first" = "$again" ] || fail "minor $1: the snapshot changed: $first, then $again through the page cache"
}

devices='vda nullb0'
minor=0
for device in $devices; do
    mkdir -p /mnt/"$device"
    $mkfs /dev/"$device" >/dev/null || fail "mkfs on $device"
    mount /dev/"$device" /mnt/"$device" || fail "mount $device"
    load /mnt/"$device" $minor
    minor=$((minor + 1))
done
sleep 3
minor=0
for device in $devices; do
    elioctl setup-snapshot -f 48 /dev/"$device" /mnt/"$device"/cow0 $minor || fail "setup-snapshot of $device"
    minor=$((minor + 1))
done
for minor in 0 1; do
    check $minor
    dd if=/dev/elastio-snap$minor of=/tmp/image$minor bs=1M 2>/dev/null
done
round=1
while [ $round -le "$rounds" ]; do
    minor=0
    for device in $devices; do
        elioctl transition-to-incremental $minor || fail "transition-to-incremental of $device"
        sleep 1
        elioctl transition-to-snapshot -f 48 "/mnt/$device/cow$round" $minor || fail "transition-to-snapshot of $device"
        check $minor
        update-img /dev/elastio-snap$minor /mnt/"$device"/cow$((round - 1)) /tmp/image$minor 2>/dev/null ||
            fail "update-img of $device"
        cmp /dev/elastio-snap$minor /tmp/image$minor || fail "round $round: the image of $device is not the snapshot"
        rm -f /mnt/"$device"/cow$((round - 1))
        minor=$((minor + 1))
    done
    round=$((round + 1))
done
rmmod elastio_snap || fail "rmmod under load"
killall fio
wait
for device in $devices; do
    umount /mnt/"$device" || fail "umount $device"
    case $mkfs in
        *xfs*) xfs_repair -n /dev/"$device" >/tmp/log 2>&1 || { cat /tmp/log && fail "$device is damaged"; } ;;
        *) e2fsck -fn /dev/"$device" >/tmp/log 2>&1 || { cat /tmp/log && fail "$device is damaged"; } ;;
    esac
done
echo "load: everything held"
