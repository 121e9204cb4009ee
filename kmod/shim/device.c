// SPDX-License-Identifier: GPL-2.0-only
/*
 * The block device that is tracked. While its volume is mounted it is held open, for reading and without
 * a holder, which is in nobody's way; otherwise only its memory is kept, so that it can be removed.
 *
 * Invariant: the structures of the device and of its disk are there until the last reference goes; I/O
 * to a disk that is gone fails in the block layer.
 */
#include <linux/blkdev.h>
#include <linux/blk-mq.h>
#include <linux/fs.h>
#include <linux/kref.h>
#include <linux/slab.h>
#include <linux/version.h>

#include "shim.h"

struct elio_device {
	struct kref references;
	struct block_device *bdev;
	struct file *file; /* while it is held open */
};

/* Opens it, and holds it. */
struct elio_device *elio_device_open(const char *path, long *error)
{
	struct elio_device *device = kzalloc(sizeof(*device), GFP_KERNEL);

	if (!device) {
		*error = -ENOMEM;
		return NULL;
	}
	device->file = bdev_file_open_by_path(path, BLK_OPEN_READ, NULL, NULL);
	if (IS_ERR(device->file)) {
		*error = PTR_ERR(device->file);
		kfree(device);
		return NULL;
	}
	kref_init(&device->references);
	device->bdev = file_bdev(device->file);
	get_device(&device->bdev->bd_device);
	get_device(disk_to_dev(device->bdev->bd_disk));
	return device;
}

static void elio_device_free(struct kref *references)
{
	struct elio_device *device = container_of(references, struct elio_device, references);
	struct gendisk *disk = device->bdev->bd_disk;

	elio_device_rest(device);
	put_device(&device->bdev->bd_device);
	put_device(disk_to_dev(disk));
	kfree(device);
}

struct elio_device *elio_device_get(struct elio_device *device)
{
	kref_get(&device->references);
	return device;
}

void elio_device_put(struct elio_device *device)
{
	kref_put(&device->references, elio_device_free);
}

/* Its volume is mounted: it is held again. */
int elio_device_hold(struct elio_device *device)
{
	struct file *file;

	if (READ_ONCE(device->file))
		return 0;
	file = bdev_file_open_by_dev(device->bdev->bd_dev, BLK_OPEN_READ, NULL, NULL);
	if (IS_ERR(file))
		return PTR_ERR(file);
	if (file_bdev(file) != device->bdev) {
		bdev_fput(file);
		return -ENODEV;
	}
	file = xchg(&device->file, file);
	if (file)
		bdev_fput(file);
	return 0;
}

/* Its volume is not mounted: it may go. */
void elio_device_rest(struct elio_device *device)
{
	struct file *file = xchg(&device->file, NULL);

	if (file)
		bdev_fput(file);
}

struct block_device *elio_device_bdev(struct elio_device *device)
{
	return device->bdev;
}

u64 elio_device_bytes(struct elio_device *device)
{
	return bdev_nr_bytes(device->bdev);
}

u32 elio_device_mounted(struct elio_device *device)
{
	struct block_device *bdev = device->bdev;
	struct super_block *sb = elio_sb_get(bdev);
	u32 mounted = READ_ONCE(bdev->bd_holder) ? ELIO_READ_WRITE : ELIO_UNMOUNTED;

	if (sb) {
		mounted = sb_rdonly(sb) ? ELIO_READ_ONLY : ELIO_READ_WRITE;
		elio_sb_put(sb);
	}
	return mounted;
}

/* Why it cannot be tracked, or 0. */
int elio_device_refusal(struct elio_device *device)
{
	struct block_device *bdev = device->bdev;

	/* A store to memory that is mapped from the device itself is no bio. */
	if (bdev_is_zoned(bdev) || blk_queue_dax(bdev_get_queue(bdev)))
		return -EOPNOTSUPP;
	if (bdev_read_only(bdev))
		return -EROFS;
	return 0;
}

u64 elio_device_id(struct elio_device *device)
{
	return device->bdev->bd_dev;
}

/* Waits for the requests that were submitted before this, where the block layer counts them. */
void elio_device_quiesce(struct elio_device *device)
{
	struct request_queue *queue = bdev_get_queue(device->bdev);

	if (!queue_is_mq(queue))
		return;
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 14, 0)
	blk_mq_unfreeze_queue(queue, blk_mq_freeze_queue(queue));
#else
	blk_mq_freeze_queue(queue);
	blk_mq_unfreeze_queue(queue);
#endif
}

int elio_device_freeze(struct elio_device *device)
{
	return bdev_freeze(device->bdev);
}

int elio_device_thaw(struct elio_device *device)
{
	return bdev_thaw(device->bdev);
}
