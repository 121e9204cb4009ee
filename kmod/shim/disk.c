// SPDX-License-Identifier: GPL-2.0-only
/*
 * The block device of a snapshot: read-only, bio-based; its reads go to the worker.
 *
 * Invariants: it cannot be opened while it is claimed, nor claimed while it is open; it is not
 * freed before every read has ended.
 */
#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/wait.h>

#include "shim.h"

struct elio_disk {
	struct gendisk *disk;
	struct elio_worker *worker;
	atomic_t openers; /* -1: claimed */
	atomic_t reads;
	wait_queue_head_t idle;
};

struct elio_read {
	struct elio_event event;
	struct bio *bio;
	struct elio_disk *disk;
};

static int elio_major;

static int elio_disk_open(struct gendisk *gendisk, blk_mode_t mode)
{
	struct elio_disk *disk = gendisk->private_data;

	if (mode & BLK_OPEN_WRITE)
		return -EROFS;
	return atomic_inc_unless_negative(&disk->openers) ? 0 : -EBUSY;
}

static void elio_disk_release(struct gendisk *gendisk)
{
	struct elio_disk *disk = gendisk->private_data;

	atomic_dec(&disk->openers);
}

static void elio_disk_submit(struct bio *bio)
{
	struct elio_disk *disk = bio->bi_bdev->bd_disk->private_data;
	struct elio_read *read;

	if (bio_op(bio) != REQ_OP_READ) {
		bio->bi_status = BLK_STS_NOTSUPP;
		bio_endio(bio);
		return;
	}
	read = kmalloc(sizeof(*read), bio->bi_opf & REQ_NOWAIT ? GFP_NOWAIT : GFP_NOIO | __GFP_NOFAIL);
	if (!read) {
		bio_wouldblock_error(bio);
		return;
	}
	read->event.kind = ELIO_EVENT_READ;
	read->bio = bio;
	read->disk = disk;
	atomic_inc(&disk->reads);
	elio_worker_post(disk->worker, &read->event);
}

static const struct block_device_operations elio_disk_operations = {
	.owner = THIS_MODULE,
	.open = elio_disk_open,
	.release = elio_disk_release,
	.submit_bio = elio_disk_submit,
};

int elio_disk_init(void)
{
	elio_major = register_blkdev(0, "elastio-snap");
	return min(elio_major, 0);
}

void elio_disk_exit(void)
{
	unregister_blkdev(elio_major, "elastio-snap");
}

struct elio_disk *elio_disk_new(u32 minor, struct elio_device *device, struct elio_worker *worker, long *error)
{
	struct block_device *origin = elio_device_bdev(device);
	struct elio_disk *disk = kzalloc(sizeof(*disk), GFP_KERNEL);
	struct queue_limits limits = {
		.logical_block_size = bdev_logical_block_size(origin),
		.physical_block_size = bdev_physical_block_size(origin),
		.io_min = bdev_physical_block_size(origin),
	};

	if (!disk) {
		*error = -ENOMEM;
		return NULL;
	}
	disk->worker = worker;
	init_waitqueue_head(&disk->idle);
	disk->disk = blk_alloc_disk(&limits, NUMA_NO_NODE);
	if (IS_ERR(disk->disk)) {
		*error = PTR_ERR(disk->disk);
		kfree(disk);
		return NULL;
	}
	disk->disk->major = elio_major;
	disk->disk->first_minor = minor;
	disk->disk->minors = 1;
	disk->disk->flags |= GENHD_FL_NO_PART;
	disk->disk->fops = &elio_disk_operations;
	disk->disk->private_data = disk;
	snprintf(disk->disk->disk_name, DISK_NAME_LEN, "elastio-snap%u", minor);
	set_capacity(disk->disk, bdev_nr_sectors(origin));
	set_disk_ro(disk->disk, true);
	*error = add_disk(disk->disk);
	if (*error) {
		put_disk(disk->disk);
		kfree(disk);
		return NULL;
	}
	return disk;
}

bool elio_disk_claim(struct elio_disk *disk)
{
	return atomic_cmpxchg(&disk->openers, 0, -1) == 0;
}

void elio_disk_unclaim(struct elio_disk *disk)
{
	atomic_set(&disk->openers, 0);
}

bool elio_disk_is_open(struct elio_disk *disk)
{
	return atomic_read(&disk->openers) > 0;
}

void elio_disk_remove(struct elio_disk *disk)
{
	del_gendisk(disk->disk);
	wait_event(disk->idle, !atomic_read(&disk->reads));
	put_disk(disk->disk);
	kfree(disk);
}

struct bio *elio_read_bio(void *read)
{
	return ((struct elio_read *)read)->bio;
}

u64 elio_read_offset(const void *read)
{
	return ((const struct elio_read *)read)->bio->bi_iter.bi_sector << SECTOR_SHIFT;
}

u64 elio_read_length(const void *read)
{
	return ((const struct elio_read *)read)->bio->bi_iter.bi_size;
}

/* Bytes of the read from `from` on; no memory is zeroes. */
void elio_read_fill(void *read, u64 from, const void *memory, u64 bytes)
{
	struct bio *bio = elio_read_bio(read);
	struct bvec_iter iter = bio->bi_iter;
	struct bio_vec bvec;

	bio_advance_iter(bio, &iter, from);
	for (; bytes && iter.bi_size; bio_advance_iter_single(bio, &iter, bvec.bv_len)) {
		bvec = bio_iter_iovec(bio, iter);
		bvec.bv_len = min_t(u64, bvec.bv_len, bytes);
		if (memory) {
			memcpy_to_bvec(&bvec, memory);
			memory += bvec.bv_len;
		} else {
			memzero_bvec(&bvec);
		}
		bytes -= bvec.bv_len;
	}
}

void elio_read_end(void *memory, int error)
{
	struct elio_read *read = memory;
	struct elio_disk *disk = read->disk;

	read->bio->bi_status = errno_to_blk_status(error);
	bio_endio(read->bio);
	kfree(read);
	if (atomic_dec_and_test(&disk->reads))
		wake_up(&disk->idle);
}
