// SPDX-License-Identifier: GPL-2.0-only
/*
 * Every bio that may change a tracked disk comes by here, and goes on at once, later or not at all.
 *
 * submit_bio_noacct() is redirected by ftrace: IPMODIFY, so that nobody else does the same, and
 * PERMANENT, so that nobody can switch it off. What this module submits itself is known by its
 * return address, what the block layer submits again by its end_io or its bio_set; both go through.
 *
 * Invariants: a target is found only under RCU and freed after a grace period; a write is counted
 * by elio_rs_test() before it is tested, and the count is undone when the write is complete or when
 * the worker has it. elio_hook_inside counts tasks in redirected calls, which may sleep.
 */
#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/delay.h>
#include <linux/ftrace.h>
#include <linux/highmem.h>
#include <linux/module.h>
#include <linux/rculist.h>
#include <linux/slab.h>
#include <linux/version.h>

#include "shim.h"

struct elio_target {
	struct list_head link;
	struct gendisk *disk;
	u64 first; /* on the disk (sectors) */
	u64 sectors;
	u64 id;
	struct elio_worker *worker;
	void *tracker;
};

struct elio_write {
	struct elio_event event;
	struct bio *bio;
	struct elio_worker *worker;
	void *tracker;
	u64 offset; /* in the tracked device (bytes), clipped to it */
	u64 length;
	u64 skipped; /* of the bio before that (bytes) */
	u64 id; /* of the target, behind which the next one is looked for */
	bio_end_io_t *end_io;
	void *private;
};

/* In ascending order of id. */
static LIST_HEAD(elio_targets);
static DEFINE_MUTEX(elio_targets_lock);
static u64 elio_next_id = 1;
static struct kmem_cache *elio_writes;
static DEFINE_PER_CPU(long, elio_hook_inside);
static unsigned long elio_text_base, elio_text_size;

static void elio_write_endio(struct bio *bio);

static u64 elio_disk_sector(struct bio *bio)
{
	u64 sector = bio->bi_iter.bi_sector;

	return bio_flagged(bio, BIO_REMAPPED) ? sector : sector + bio->bi_bdev->bd_start_sect;
}

static bool elio_overlaps(const struct elio_target *target, struct bio *bio)
{
	u64 first = elio_disk_sector(bio);

	return bio->bi_bdev->bd_disk == target->disk && first < target->first + target->sectors &&
	       first + bio_sectors(bio) > target->first;
}

static void elio_write_clip(struct elio_write *write, const struct elio_target *target, struct bio *bio)
{
	u64 first = elio_disk_sector(bio), end = first + bio_sectors(bio);
	u64 from = max(first, target->first), to = min(end, target->first + target->sectors);

	write->skipped = (from - first) << SECTOR_SHIFT;
	write->offset = (from - target->first) << SECTOR_SHIFT;
	write->length = (to - from) << SECTOR_SHIFT;
	write->worker = target->worker;
	write->tracker = target->tracker;
	write->id = target->id;
}

static void elio_write_wrap(struct elio_write *write)
{
	struct bio *bio = write->bio;

	write->end_io = bio->bi_end_io;
	write->private = bio->bi_private;
	bio->bi_end_io = elio_write_endio;
	bio->bi_private = write;
}

static void elio_write_leave(void *tracker)
{
	/* Whoever waits for the last one to leave also waits for the readers of RCU. */
	rcu_read_lock();
	elio_rs_leave(tracker);
	rcu_read_unlock();
}

static void elio_write_endio(struct bio *bio)
{
	struct elio_write *write = bio->bi_private;
	void *tracker = write->tracker;

	bio->bi_end_io = write->end_io;
	bio->bi_private = write->private;
	kmem_cache_free(elio_writes, write);
	elio_write_leave(tracker);
	if (bio->bi_end_io)
		bio->bi_end_io(bio);
}

/* Takes the bio to each target behind `id` in turn, then down. Whoever holds it calls again. */
static void elio_dispatch(struct bio *bio, u64 id)
{
	struct elio_target *target;
	struct elio_write *write = NULL;
	bool found, passes;

	for (;;) {
		if (!write) {
			bool nowait = bio->bi_opf & REQ_NOWAIT;

			write = kmem_cache_alloc(elio_writes, nowait ? GFP_NOWAIT : GFP_NOIO | __GFP_NOFAIL);
			if (!write) {
				bio_wouldblock_error(bio);
				return;
			}
		}
		found = false;
		rcu_read_lock();
		list_for_each_entry_rcu(target, &elio_targets, link) {
			if (target->id > id && elio_overlaps(target, bio)) {
				found = true;
				elio_write_clip(write, target, bio);
				passes = elio_rs_test(write->tracker, write->offset, write->length);
				break;
			}
		}
		rcu_read_unlock();
		if (!found) {
			kmem_cache_free(elio_writes, write);
			elio_submit(bio);
			return;
		}
		id = write->id;
		write->bio = bio;
		if (!passes) {
			void *tracker = write->tracker;

			write->event.kind = ELIO_EVENT_WRITE;
			elio_worker_post(write->worker, &write->event);
			elio_write_leave(tracker);
			return;
		}
		elio_write_wrap(write);
		write = NULL;
	}
}

static noinline void elio_redirected(struct bio *bio)
{
	elio_dispatch(bio, 0);
	this_cpu_dec(elio_hook_inside);
}

static void notrace elio_hook(unsigned long ip, unsigned long parent_ip, struct ftrace_ops *ops,
			      struct ftrace_regs *fregs)
{
	struct elio_target *target;
	struct bio *bio;

	if (list_empty(&elio_targets) || parent_ip - elio_text_base < elio_text_size)
		return;
	bio = (struct bio *)ftrace_regs_get_argument(fregs, 0);
	if (!op_is_write(bio_op(bio)) || !bio->bi_iter.bi_size)
		return;
	preempt_disable_notrace();
	list_for_each_entry_rcu(target, &elio_targets, link, true) {
		if (!elio_overlaps(target, bio))
			continue;
		if (bio->bi_end_io != elio_write_endio && !elio_bio_is_own(bio)) {
			this_cpu_inc(elio_hook_inside);
			ftrace_regs_set_instruction_pointer(fregs, (unsigned long)elio_redirected);
		}
		break;
	}
	preempt_enable_notrace();
}

static struct ftrace_ops elio_hook_ops = {
	.func = elio_hook,
	.flags = FTRACE_OPS_FL_IPMODIFY | FTRACE_OPS_FL_PERMANENT,
};

int elio_hook_init(void)
{
	int error;

	elio_text_base = (unsigned long)THIS_MODULE->mem[MOD_TEXT].base;
	elio_text_size = THIS_MODULE->mem[MOD_TEXT].size;
	elio_writes = KMEM_CACHE(elio_write, SLAB_HWCACHE_ALIGN);
	if (!elio_writes)
		return -ENOMEM;
	error = ftrace_set_filter_ip(&elio_hook_ops, (unsigned long)submit_bio_noacct, 0, 0);
	if (!error)
		error = register_ftrace_function(&elio_hook_ops);
	if (error) {
		pr_err("elastio-snap: writes cannot be seen, because submit_bio_noacct() cannot be redirected: error %d\n",
		       error);
		kmem_cache_destroy(elio_writes);
	}
	return error;
}

void elio_hook_exit(void)
{
	long inside;
	int cpu;

	unregister_ftrace_function(&elio_hook_ops);
	ftrace_free_filter(&elio_hook_ops);
	/* Nobody is between the redirection and the counter after this, and nobody behind it after that. */
	synchronize_rcu_tasks();
	do {
		inside = 0;
		for_each_possible_cpu(cpu)
			inside += READ_ONCE(*per_cpu_ptr(&elio_hook_inside, cpu));
		if (inside)
			msleep(1);
	} while (inside);
	synchronize_rcu_tasks();
	synchronize_rcu();
	kmem_cache_destroy(elio_writes);
}

struct elio_target *elio_target_new(struct block_device *device, struct elio_worker *worker, void *tracker)
{
	struct elio_target *target = kzalloc(sizeof(*target), GFP_KERNEL);

	if (!target)
		return NULL;
	target->disk = device->bd_disk;
	target->first = device->bd_start_sect;
	target->sectors = bdev_nr_sectors(device);
	target->worker = worker;
	target->tracker = tracker;
	return target;
}

/* False if the same part of the same disk is there already. */
bool elio_target_publish(struct elio_target *target)
{
	struct elio_target *other;
	bool fresh = true;

	mutex_lock(&elio_targets_lock);
	list_for_each_entry(other, &elio_targets, link)
		fresh &= other->disk != target->disk || other->first != target->first;
	if (fresh) {
		target->id = elio_next_id++;
		list_add_tail_rcu(&target->link, &elio_targets);
	}
	mutex_unlock(&elio_targets_lock);
	return fresh;
}

void elio_target_unpublish(struct elio_target *target)
{
	mutex_lock(&elio_targets_lock);
	list_del_rcu(&target->link);
	mutex_unlock(&elio_targets_lock);
	synchronize_rcu();
}

void elio_target_free(struct elio_target *target)
{
	kfree(target);
}

/* 0 changes the medium, 1 may change it, 2 changes it to zeroes. */
u32 elio_write_op(const struct elio_write *write)
{
	switch (bio_op(write->bio)) {
	case REQ_OP_DISCARD:
		return 1;
	case REQ_OP_WRITE_ZEROES:
		return 2;
	case REQ_OP_SECURE_ERASE:
		return 3;
	default:
		return 0;
	}
}

bool elio_write_nowait(const struct elio_write *write)
{
	return write->bio->bi_opf & REQ_NOWAIT;
}

u64 elio_write_offset(const struct elio_write *write)
{
	return write->offset;
}

u64 elio_write_length(const struct elio_write *write)
{
	return write->length;
}

/* Copies what the write carries for bytes from `offset` of the device on. */
bool elio_write_peek(const struct elio_write *write, u64 offset, u8 *to, size_t length)
{
	struct bvec_iter iter = write->bio->bi_iter;
	struct bio_vec bvec;

	if (!bio_has_data(write->bio) || offset < write->offset || offset + length > write->offset + write->length)
		return false;
	bio_advance_iter(write->bio, &iter, write->skipped + offset - write->offset);
	for (; length && iter.bi_size; bio_advance_iter_single(write->bio, &iter, bvec.bv_len)) {
		bvec = bio_iter_iovec(write->bio, iter);
		bvec.bv_len = min_t(size_t, bvec.bv_len, length);
		memcpy_from_bvec(to, &bvec);
		to += bvec.bv_len;
		length -= bvec.bv_len;
	}
	return !length;
}

/* Lets a held write go on; it has been counted again. */
void elio_write_submit(struct elio_write *write)
{
	struct bio *bio = write->bio;
	u64 id = write->id;

	bio_clear_polled(bio);
	elio_write_wrap(write);
	elio_dispatch(bio, id);
}

/* Completes a held write that is not submitted; it has not been counted. */
void elio_write_end(struct elio_write *write, int error)
{
	struct bio *bio = write->bio;

	kmem_cache_free(elio_writes, write);
	bio->bi_status = errno_to_blk_status(error);
	bio_endio(bio);
}
