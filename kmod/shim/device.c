// SPDX-License-Identifier: GPL-2.0-only
/*
 * The block device that is tracked. It is opened for reading and without a holder, which is in
 * nobody's way.
 */
#include <linux/blkdev.h>
#include <linux/blk-mq.h>
#include <linux/fs.h>
#include <linux/version.h>

#include "shim.h"

void *elio_device_open(const char *path, long *error)
{
	struct file *file = bdev_file_open_by_path(path, BLK_OPEN_READ, NULL, NULL);

	if (IS_ERR(file)) {
		*error = PTR_ERR(file);
		return NULL;
	}
	return file;
}

struct block_device *elio_device_bdev(void *device)
{
	return file_bdev(device);
}

void elio_device_close(void *device)
{
	bdev_fput(device);
}

u64 elio_device_bytes(void *device)
{
	return bdev_nr_bytes(file_bdev(device));
}

u32 elio_device_mounted(void *device)
{
	struct block_device *bdev = file_bdev(device);
	struct super_block *sb = elio_sb_get(bdev);
	u32 mounted = READ_ONCE(bdev->bd_holder) ? ELIO_READ_WRITE : ELIO_UNMOUNTED;

	if (sb) {
		mounted = sb_rdonly(sb) ? ELIO_READ_ONLY : ELIO_READ_WRITE;
		elio_sb_put(sb);
	}
	return mounted;
}

/* Why it cannot be tracked, or 0. */
int elio_device_refusal(void *device)
{
	struct block_device *bdev = file_bdev(device);

	if (bdev_is_zoned(bdev))
		return -EOPNOTSUPP;
	if (bdev_read_only(bdev))
		return -EROFS;
	return 0;
}

u64 elio_device_id(void *device)
{
	return file_bdev(device)->bd_dev;
}

/* Waits for the requests that were submitted before this, where the block layer counts them. */
void elio_device_quiesce(void *device)
{
	struct request_queue *queue = bdev_get_queue(file_bdev(device));

	if (!queue_is_mq(queue))
		return;
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 14, 0)
	blk_mq_unfreeze_queue(queue, blk_mq_freeze_queue(queue));
#else
	blk_mq_freeze_queue(queue);
	blk_mq_unfreeze_queue(queue);
#endif
}

int elio_device_freeze(void *device)
{
	return bdev_freeze(file_bdev(device));
}

int elio_device_thaw(void *device)
{
	return bdev_thaw(file_bdev(device));
}
