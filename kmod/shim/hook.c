// SPDX-License-Identifier: GPL-2.0-only
/*
 * Every bio that may change a tracked disk comes by here, and goes on at once, later or not at all.
 *
 * submit_bio_noacct() is redirected by ftrace: IPMODIFY, so that nobody else does the same, and
 * PERMANENT, so that nobody can switch it off. The usual write needs no redirection: it is counted,
 * tested and marked by its end_io where ftrace calls. What this module submits itself is known by
 * its return address. What a target has seen it knows again by the chain of end_io, so a rest that
 * the block layer submits again passes, and each target sees what another one's tracker writes.
 *
 * Invariants: a target is found only under RCU and freed after a grace period; a write is counted
 * by elio_rs_test() before it is tested, and the count is undone when the write is complete or when
 * the tracker holds it. elio_hook_inside counts tasks in redirected calls, which may sleep.
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
	dev_t device;
};

struct elio_write {
	struct elio_event event;
	void *tracker;
	u64 id; /* of the target, which may be gone */
	u32 lane; /* in which it is counted */
	bool stopped; /* did not pass where ftrace calls */
	bio_end_io_t *end_io;
	void *private;
	/* Of one that did not pass. */
	struct bio *bio;
	u64 offset; /* in the tracked device (bytes), clipped to it */
	u64 length;
	u64 skipped; /* of the bio before that (bytes) */
};

static LIST_HEAD(elio_targets);
static DEFINE_MUTEX(elio_targets_lock);
static u64 elio_last_id;
static struct kmem_cache *elio_writes;
static DEFINE_PER_CPU(struct elio_spares, elio_write_spares);
static DEFINE_PER_CPU(long, elio_hook_inside);
static unsigned long elio_text_base, elio_text_size;
/* The end_io of a chained bio, which must not be called: bio_endio() recognises it. */
static bio_end_io_t *elio_chained_endio;

static void elio_write_endio(struct bio *bio);

static __always_inline u64 elio_disk_sector(struct bio *bio)
{
	u64 sector = bio->bi_iter.bi_sector;

	return bio_flagged(bio, BIO_REMAPPED) ? sector : sector + bio->bi_bdev->bd_start_sect;
}

static __always_inline bool elio_overlaps(const struct elio_target *target, struct bio *bio)
{
	u64 first = elio_disk_sector(bio);

	return first < target->first + target->sectors && first + bio_sectors(bio) > target->first;
}

/* Whether the target has seen the bio, or its own tracker made it. */
static __always_inline bool elio_knows(const struct elio_target *target, const struct bio *bio)
{
	bio_end_io_t *end_io = bio->bi_end_io;
	void *private = bio->bi_private;

	while (end_io == elio_write_endio) {
		const struct elio_write *write = private;

		if (write->id == target->id)
			return true;
		end_io = write->end_io;
		private = write->private;
	}
	return end_io == elio_io_endio && elio_io_is_from(private, target->worker);
}

/* Never waits; NULL if there is none. From any context. */
static __always_inline struct elio_write *elio_write_take(void)
{
	struct llist_node *node = elio_spare_take(&elio_write_spares);

	return node ? container_of(node, struct elio_write, event.node) : NULL;
}

static __always_inline void elio_write_put(struct elio_write *write)
{
	if (!elio_spare_put(&elio_write_spares, &write->event.node))
		kmem_cache_free(elio_writes, write);
}

/* What of a bio lies on a target that it overlaps (bytes of the target). */
static __always_inline void elio_clip(const struct elio_target *target, struct bio *bio, u64 *offset,
				      u64 *length)
{
	u64 disk_sector = elio_disk_sector(bio);
	u64 first = max(disk_sector, target->first);
	u64 end = min(disk_sector + bio_sectors(bio), target->first + target->sectors);

	*offset = (first - target->first) << SECTOR_SHIFT;
	*length = (end - first) << SECTOR_SHIFT;
}

static __always_inline void elio_write_wrap(struct elio_write *write, struct bio *bio)
{
	write->end_io = bio->bi_end_io;
	write->private = bio->bi_private;
	bio->bi_end_io = elio_write_endio;
	bio->bi_private = write;
}

static __always_inline void elio_write_unwrap(const struct elio_write *write, struct bio *bio)
{
	bio->bi_end_io = write->end_io;
	bio->bi_private = write->private;
}

static __always_inline void elio_write_leave(void *tracker, u32 lane)
{
	/* Whoever waits for the last one to leave also waits for the readers of RCU, as this is. */
	preempt_disable();
	elio_rs_leave(tracker, lane);
	preempt_enable();
}

static void elio_write_endio(struct bio *bio)
{
	struct elio_write *write = bio->bi_private;
	void *tracker = write->tracker;
	u32 lane = write->lane;

	elio_write_unwrap(write, bio);
	elio_write_put(write);
	elio_write_leave(tracker, lane);
	if (unlikely(bio->bi_end_io == elio_chained_endio))
		bio_endio(bio);
	else if (bio->bi_end_io)
		bio->bi_end_io(bio);
}

static __always_inline bool elio_concerns(const struct elio_target *target, struct bio *bio)
{
	return bio->bi_bdev->bd_disk == target->disk && elio_overlaps(target, bio) && !elio_knows(target, bio);
}

/* The next target that is to see the bio, if any. Under RCU. */
static const struct elio_target *elio_target_of(struct bio *bio)
{
	const struct elio_target *target;

	list_for_each_entry_rcu(target, &elio_targets, link) {
		if (elio_concerns(target, bio))
			return target;
	}
	return NULL;
}

/* Counts and tests a bio for a target that it concerns. Under RCU. */
static __always_inline bool elio_write_test(struct elio_write *write, const struct elio_target *target,
					    struct bio *bio)
{
	u64 offset, length;

	elio_clip(target, bio, &offset, &length);
	write->tracker = target->tracker;
	write->id = target->id;
	write->lane = raw_smp_processor_id();
	return elio_rs_test(write->tracker, write->lane, offset, length);
}

/* What is to be known of one that did not pass. Under the same RCU. */
static noinline notrace void elio_write_describe(struct elio_write *write, const struct elio_target *target,
						 struct bio *bio)
{
	u64 first = elio_disk_sector(bio);

	write->bio = bio;
	write->skipped = first < target->first ? (target->first - first) << SECTOR_SHIFT : 0;
	elio_clip(target, bio, &write->offset, &write->length);
}

/* Gives a write that did not pass, and is still counted, to its tracker. */
static void elio_write_hold(struct elio_write *write)
{
	bool nowait = write->bio->bi_opf & REQ_NOWAIT;
	void *tracker = write->tracker;
	u32 lane = write->lane;

	write->event.kind = ELIO_EVENT_WRITE;
	elio_rs_hold(tracker, &write->event, nowait);
	elio_write_leave(tracker, lane);
}

/* Takes the bio to each target that has not seen it, then down. Who holds it calls again. */
void elio_dispatch(struct bio *bio)
{
	bool nowait = bio->bi_opf & REQ_NOWAIT, passes;
	struct elio_write *write = NULL;
	const struct elio_target *target;

	for (;;) {
		rcu_read_lock();
		target = elio_target_of(bio);
		if (target && !write)
			write = elio_write_take();
		passes = target && write && elio_write_test(write, target, bio);
		if (passes) {
			write->stopped = false;
			elio_write_wrap(write, bio);
		} else if (target && write) {
			elio_write_describe(write, target, bio);
		}
		rcu_read_unlock();
		if (!target)
			break;
		if (passes) {
			write = NULL;
		} else if (write) {
			elio_write_hold(write);
			return;
		} else {
			write = kmem_cache_alloc(elio_writes, nowait ? GFP_NOWAIT : GFP_NOIO | __GFP_NOFAIL);
			if (!write) {
				bio_wouldblock_error(bio);
				return;
			}
		}
	}
	if (write)
		elio_write_put(write);
	elio_submit(bio);
}

static noinline void elio_redirected(struct bio *bio)
{
	struct elio_write *write = bio->bi_private;

	if (bio->bi_end_io == elio_write_endio && write->stopped) {
		elio_write_unwrap(write, bio);
		elio_write_hold(write);
	} else {
		elio_dispatch(bio);
	}
	this_cpu_dec(elio_hook_inside);
}

/* Whether the bio passes at a target; if there is a record, it is marked either way. */
static __always_inline bool elio_passes(const struct elio_target *target, struct bio *bio)
{
	struct elio_write *write = elio_write_take();

	if (!write)
		return false;
	write->stopped = !elio_write_test(write, target, bio);
	if (unlikely(write->stopped))
		elio_write_describe(write, target, bio);
	elio_write_wrap(write, bio);
	return !write->stopped;
}

/* A write to a disk that has targets, of which this is the first. A reader of RCU. */
static noinline notrace void elio_hook_disk(const struct elio_target *target, struct bio *bio,
					    unsigned long parent_ip, struct ftrace_regs *fregs)
{
	if (parent_ip - elio_text_base < elio_text_size || !bio->bi_iter.bi_size)
		return;
	list_for_each_entry_from_rcu(target, &elio_targets, link) {
		if (elio_concerns(target, bio) && !elio_passes(target, bio)) {
			this_cpu_inc(elio_hook_inside);
			ftrace_regs_set_instruction_pointer(fregs, (unsigned long)elio_redirected);
			return;
		}
	}
}

static void notrace elio_hook(unsigned long ip, unsigned long parent_ip, struct ftrace_ops *ops,
			      struct ftrace_regs *fregs)
{
	const struct elio_target *target;
	struct bio *bio;

	if (list_empty(&elio_targets))
		return;
	bio = (struct bio *)ftrace_regs_get_argument(fregs, 0);
	if (!op_is_write(bio_op(bio)))
		return;
	/* A reader of RCU. */
	preempt_disable_notrace();
	list_for_each_entry_rcu(target, &elio_targets, link, true) {
		if (bio->bi_bdev->bd_disk == target->disk) {
			elio_hook_disk(target, bio, parent_ip, fregs);
			break;
		}
	}
	preempt_enable_notrace();
}

static struct ftrace_ops elio_hook_ops = {
	.func = elio_hook,
	.flags = FTRACE_OPS_FL_IPMODIFY | FTRACE_OPS_FL_PERMANENT,
};

int elio_hook_init(void)
{
	struct bio part, whole;
	int error;

	bio_init(&part, NULL, NULL, 0, REQ_OP_WRITE);
	bio_init(&whole, NULL, NULL, 0, REQ_OP_WRITE);
	bio_chain(&part, &whole);
	elio_chained_endio = part.bi_end_io;
	elio_text_base = (unsigned long)THIS_MODULE->mem[MOD_TEXT].base;
	elio_text_size = THIS_MODULE->mem[MOD_TEXT].size;
	elio_writes = KMEM_CACHE(elio_write, 0);
	if (!elio_writes)
		return -ENOMEM;
	error = ftrace_set_filter_ip(&elio_hook_ops, (unsigned long)submit_bio_noacct, 0, 0);
	if (!error)
		error = register_ftrace_function(&elio_hook_ops);
	if (error) {
		pr_err("elastio-snap: writes cannot be seen, because submit_bio_noacct() cannot be redirected: error %d\n",
		       error);
		ftrace_free_filter(&elio_hook_ops);
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
	elio_spares_free(&elio_write_spares, elio_writes, offsetof(struct elio_write, event.node));
	kmem_cache_destroy(elio_writes);
}

struct elio_target *elio_target_new(struct block_device *device, struct elio_worker *worker, void *tracker)
{
	struct elio_target *target = kzalloc(sizeof(*target), GFP_KERNEL);

	if (!target)
		return NULL;
	target->device = device->bd_dev;
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
		target->id = ++elio_last_id;
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

bool elio_target_is_on(dev_t device)
{
	const struct elio_target *target;
	bool found = false;

	rcu_read_lock();
	list_for_each_entry_rcu(target, &elio_targets, link)
		found |= target->device == device;
	rcu_read_unlock();
	return found;
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

u32 elio_write_lane(const struct elio_write *write)
{
	return write->lane;
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

	bio_clear_polled(bio);
	elio_write_wrap(write, bio);
	elio_dispatch(bio);
}

/* Completes a held write that is not submitted; it has not been counted. */
void elio_write_end(struct elio_write *write, int error)
{
	struct bio *bio = write->bio;

	elio_write_put(write);
	bio->bi_status = errno_to_blk_status(error);
	bio_endio(bio);
}
