// SPDX-License-Identifier: GPL-2.0-only
/*
 * The block device of a snapshot: read-only, bio-based. A read of what nobody touched goes to the
 * origin and is looked at again at its end; all others go to the tracker.
 *
 * Invariants: it cannot be opened while it is claimed, nor claimed while it is open; it is not
 * freed before every read has ended. The reader's own bio goes down, as it came, at most once at a
 * time.
 */
#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/wait.h>

#include "shim.h"

struct elio_disk {
	struct gendisk *disk;
	struct block_device *origin;
	struct elio_worker *worker;
	void *tracker;
	atomic_t openers; /* -1: claimed */
	atomic_t reads;
	wait_queue_head_t idle;
};

struct elio_read {
	struct elio_event event;
	struct bio *bio;
	struct elio_disk *disk;
	/* While the bio is under way: what it was. */
	struct block_device *device;
	struct bvec_iter iter;
	bio_end_io_t *end_io;
	void *private;
	bool again; /* to be looked at again */
};

static struct kmem_cache *elio_reads;
static DEFINE_PER_CPU(struct elio_spares, elio_read_spares);
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

static void elio_read_free(struct elio_read *read)
{
	struct elio_disk *disk = read->disk;

	if (!elio_spare_put(&elio_read_spares, &read->event.node))
		kmem_cache_free(elio_reads, read);
	/* Whoever waits for the last one also waits for the readers of RCU, and looks after it is in the queue. */
	rcu_read_lock();
	if (atomic_dec_and_test(&disk->reads) && waitqueue_active(&disk->idle))
		wake_up(&disk->idle);
	rcu_read_unlock();
}

static bool elio_read_is_untouched(const struct elio_read *read, const struct bvec_iter *iter)
{
	bool untouched;

	rcu_read_lock();
	untouched = elio_rs_untouched(read->disk->tracker, (u64)iter->bi_sector << SECTOR_SHIFT, iter->bi_size);
	rcu_read_unlock();
	return untouched;
}

static void elio_read_endio(struct bio *bio)
{
	struct elio_read *read = bio->bi_private;

	bio->bi_bdev = read->device;
	bio->bi_end_io = read->end_io;
	bio->bi_private = read->private;
	/* They were the other device's. */
	bio_clear_flag(bio, BIO_QOS_THROTTLED);
	bio_clear_flag(bio, BIO_QOS_MERGED);
	if (read->again && !elio_read_is_untouched(read, &read->iter)) {
		bio->bi_iter = read->iter;
		bio->bi_status = BLK_STS_OK;
		bio_clear_flag(bio, BIO_REMAPPED);
		/* As of a bio that was never split. */
		atomic_set(&bio->__bi_remaining, 1);
		elio_worker_post(read->disk->worker, &read->event);
		return;
	}
	/* Not its end_io itself, which a chained bio has only to be recognised by. */
	bio_endio(bio);
	elio_read_free(read);
}

static void elio_read_down(struct elio_read *read, struct block_device *device, u64 sector, bool again)
{
	struct bio *bio = read->bio;

	read->device = bio->bi_bdev;
	read->iter = bio->bi_iter;
	read->end_io = bio->bi_end_io;
	read->private = bio->bi_private;
	read->again = again;
	bio->bi_end_io = elio_read_endio;
	bio->bi_private = read;
	bio_set_dev(bio, device);
	bio->bi_iter.bi_sector = sector;
	elio_submit(bio);
}

static void elio_disk_submit(struct bio *bio)
{
	struct elio_disk *disk = bio->bi_bdev->bd_disk->private_data;
	bool nowait = bio->bi_opf & REQ_NOWAIT;
	struct llist_node *spare;
	struct elio_read *read;

	if (bio_op(bio) != REQ_OP_READ) {
		bio->bi_status = BLK_STS_NOTSUPP;
		bio_endio(bio);
		return;
	}
	spare = elio_spare_take(&elio_read_spares);
	if (spare)
		read = container_of(spare, struct elio_read, event.node);
	else
		read = kmem_cache_alloc(elio_reads, nowait ? GFP_NOWAIT : GFP_NOIO | __GFP_NOFAIL);
	if (!read) {
		bio_wouldblock_error(bio);
		return;
	}
	read->event.kind = ELIO_EVENT_READ;
	read->bio = bio;
	read->disk = disk;
	atomic_inc(&disk->reads);
	if (elio_read_is_untouched(read, &bio->bi_iter))
		elio_read_down(read, disk->origin, bio->bi_iter.bi_sector, true);
	else
		elio_rs_read(disk->tracker, &read->event, nowait);
}

static const struct block_device_operations elio_disk_operations = {
	.owner = THIS_MODULE,
	.open = elio_disk_open,
	.release = elio_disk_release,
	.submit_bio = elio_disk_submit,
};

int elio_disk_init(void)
{
	elio_reads = KMEM_CACHE(elio_read, 0);
	if (!elio_reads)
		return -ENOMEM;
	elio_major = register_blkdev(0, "elastio-snap");
	if (elio_major < 0)
		kmem_cache_destroy(elio_reads);
	return min(elio_major, 0);
}

void elio_disk_exit(void)
{
	unregister_blkdev(elio_major, "elastio-snap");
	elio_spares_free(&elio_read_spares, elio_reads, offsetof(struct elio_read, event.node));
	kmem_cache_destroy(elio_reads);
}

struct elio_disk *elio_disk_new(u32 minor, struct elio_device *device, struct elio_worker *worker, long *error)
{
	struct block_device *origin = elio_device_bdev(device);
	struct elio_disk *disk = kzalloc(sizeof(*disk), GFP_KERNEL);
	struct queue_limits limits = {
		.logical_block_size = bdev_logical_block_size(origin),
		.physical_block_size = bdev_physical_block_size(origin),
		.io_min = bdev_physical_block_size(origin),
		/* What is read as it is on the disk goes there as it came. */
		.dma_alignment = bdev_dma_alignment(origin),
	};

	if (!disk) {
		*error = -ENOMEM;
		return NULL;
	}
	disk->origin = origin;
	disk->worker = worker;
	disk->tracker = elio_worker_context(worker);
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
	WARN_ON_ONCE(atomic_cmpxchg(&disk->openers, -1, 0) != -1);
}

bool elio_disk_is_open(struct elio_disk *disk)
{
	return atomic_read(&disk->openers) > 0;
}

void elio_disk_remove(struct elio_disk *disk)
{
	del_gendisk(disk->disk);
	wait_event(disk->idle, !atomic_read(&disk->reads));
	synchronize_rcu();
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

/* Has the read done by the device, from that sector on. */
void elio_read_send(void *read, struct block_device *device, u64 sector)
{
	elio_read_down(read, device, sector, false);
}

void elio_read_end(void *memory, int error)
{
	struct elio_read *read = memory;

	read->bio->bi_status = errno_to_blk_status(error);
	bio_endio(read->bio);
	elio_read_free(read);
}
