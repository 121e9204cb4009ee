// SPDX-License-Identifier: GPL-2.0-only
/*
 * Own I/O: requests made of bios, answered by one event each.
 *
 * Invariants: every own bio ends in elio_io_endio(), by which it is recognised even when the block
 * layer submits what remains of it after a split. A request holds one count of its own until it is
 * started, so that it cannot end before it is complete. Its first bio and the job it is for are
 * part of it. Spare requests belong to a worker and are touched by whoever works; at least
 * ELIO_RESERVE are spare or under way, so that work goes on without memory as soon as one ends.
 */
#include <linux/bio.h>
#include <linux/blk-cgroup.h>
#include <linux/blkdev.h>
#include <linux/slab.h>

#include "shim.h"

#define ELIO_RESERVE 16
#define ELIO_SPARE 64

struct elio_io {
	struct elio_event event;
	struct elio_worker *worker;
	atomic_t pending;
	blk_status_t status;
	bool begun; /* the first bio is in use */
	struct bio bio;
	struct bio_vec vectors[2];
	u64 job[ELIO_JOB_BYTES / sizeof(u64)];
};

static struct bio_set elio_bios;
static struct kmem_cache *elio_ios;

int elio_bio_init(void)
{
	int error = bioset_init(&elio_bios, 128, 0, BIOSET_NEED_BVECS | BIOSET_NEED_RESCUER);

	if (error)
		return error;
	elio_ios = KMEM_CACHE(elio_io, 0);
	if (!elio_ios)
		bioset_exit(&elio_bios);
	return elio_ios ? 0 : -ENOMEM;
}

void elio_bio_exit(void)
{
	kmem_cache_destroy(elio_ios);
	bioset_exit(&elio_bios);
}

/*
 * The only way down: the hook knows by the return address that it is not to be redirected again.
 * The barrier keeps the call from becoming a jump, which would leave the caller's address there.
 */
noinline void elio_submit(struct bio *bio)
{
	submit_bio_noacct(bio);
	barrier();
}

void elio_spares_free(struct elio_spares __percpu *all, struct kmem_cache *cache, size_t offset)
{
	int cpu;

	for_each_possible_cpu(cpu) {
		struct elio_spares *spares = per_cpu_ptr(all, cpu);

		if (spares->last)
			kmem_cache_free(cache, (void *)spares->last - offset);
		spares->last = NULL;
		while (spares->first) {
			void *record = (void *)spares->first - offset;

			spares->first = spares->first->next;
			kmem_cache_free(cache, record);
		}
		spares->count = 0;
	}
}

/* All spare requests of a worker, which needs none any more. */
void elio_io_drop(struct elio_spares *spares)
{
	while (spares->first) {
		struct elio_event *event = container_of(spares->first, struct elio_event, node);

		spares->first = spares->first->next;
		kmem_cache_free(elio_ios, container_of(event, struct elio_io, event));
	}
}

bool elio_io_reserve(struct elio_spares *spares)
{
	for (spares->count = 0; spares->count < ELIO_RESERVE; spares->count++) {
		struct elio_io *io = kmem_cache_alloc(elio_ios, GFP_KERNEL);

		if (!io) {
			elio_io_drop(spares);
			return false;
		}
		io->event.node.next = spares->first;
		spares->first = &io->event.node;
	}
	return true;
}

/* A request, or NULL: there will be one when one of those under way has ended. */
void *elio_io_new(struct elio_worker *worker)
{
	struct elio_spares *spares = elio_worker_spares(worker);
	struct elio_io *io;

	if (spares->first) {
		io = container_of(spares->first, struct elio_io, event.node);
		spares->first = spares->first->next;
		spares->count--;
	} else {
		io = kmem_cache_alloc(elio_ios, GFP_NOWAIT | __GFP_NOWARN);
		if (!io)
			return NULL;
	}
	io->event.kind = ELIO_EVENT_IO;
	io->worker = worker;
	io->status = BLK_STS_OK;
	io->begun = false;
	atomic_set(&io->pending, 1);
	return io;
}

/* ELIO_JOB_BYTES for the caller's use. */
void *elio_io_job(void *io)
{
	return ((struct elio_io *)io)->job;
}

static void elio_io_put(struct elio_io *io)
{
	if (atomic_dec_and_test(&io->pending))
		elio_worker_post(io->worker, &io->event);
}

void elio_io_endio(struct bio *bio)
{
	struct elio_io *io = bio->bi_private;

	if (bio->bi_status)
		WRITE_ONCE(io->status, bio->bi_status);
	if (bio == &io->bio)
		bio_uninit(bio);
	else
		bio_put(bio);
	elio_io_put(io);
}

/* Whether what a bio that ends so has as `private` was made for this worker. */
bool elio_io_is_from(const void *private, const struct elio_worker *worker)
{
	return ((const struct elio_io *)private)->worker == worker;
}

/* Nobody's limits apply to what others may have to wait for. */
static void elio_io_aim(struct bio *bio, struct block_device *device)
{
#ifdef CONFIG_BLK_CGROUP
	bio->bi_bdev = device;
	bio_associate_blkg_from_css(bio, blkcg_root_css);
#else
	bio_set_dev(bio, device);
#endif
}

static struct bio *elio_io_bio(struct elio_io *io, struct block_device *device, unsigned short pages, blk_opf_t opf)
{
	struct bio *bio = &io->bio;

	if (!io->begun && pages <= ARRAY_SIZE(io->vectors)) {
		io->begun = true;
		bio_init(bio, NULL, io->vectors, ARRAY_SIZE(io->vectors), opf);
	} else {
		bio = bio_alloc_bioset(NULL, pages, opf, GFP_NOIO, &elio_bios);
	}
	elio_io_aim(bio, device);
	return bio;
}

static void elio_io_send(struct elio_io *io, struct bio *bio)
{
	bio->bi_private = io;
	bio->bi_end_io = elio_io_endio;
	atomic_inc(&io->pending);
	/* It may lie where another target is. */
	if (op_is_write(bio_op(bio)) && bio->bi_iter.bi_size)
		elio_dispatch(bio);
	else
		elio_submit(bio);
}

static struct page *elio_page_of(void *memory)
{
	return is_vmalloc_addr(memory) ? vmalloc_to_page(memory) : virt_to_page(memory);
}

static blk_opf_t elio_opf(u32 op)
{
	switch (op) {
	case 0:
		return REQ_OP_READ | REQ_SYNC;
	case 1:
		return REQ_OP_WRITE | REQ_SYNC | REQ_IDLE;
	default:
		return REQ_OP_WRITE | REQ_SYNC | REQ_FUA | REQ_META | REQ_PRIO;
	}
}

static size_t elio_bio_fill(struct bio *bio, void *memory, size_t bytes)
{
	size_t done = 0;

	while (done < bytes) {
		void *at = memory + done;
		unsigned int length = min_t(size_t, bytes - done, PAGE_SIZE - offset_in_page(at));

		if (bio_add_page(bio, elio_page_of(at), length, offset_in_page(at)) != length)
			break;
		done += length;
	}
	return done;
}

/* op: 0 read, 1 write, 2 write that is durable at its end. */
void elio_io_add(void *request, struct block_device *device, u32 op, u64 sector, void *memory, size_t bytes)
{
	struct elio_io *io = request;

	while (bytes) {
		unsigned short pages = min_t(size_t, DIV_ROUND_UP(bytes, PAGE_SIZE) + 1, BIO_MAX_VECS);
		struct bio *bio = elio_io_bio(io, device, pages, elio_opf(op));
		size_t done = elio_bio_fill(bio, memory, bytes);

		bio->bi_iter.bi_sector = sector;
		elio_io_send(io, bio);
		memory += done;
		bytes -= done;
		sector += done >> SECTOR_SHIFT;
	}
}

/* Reads into a part of a read of the snapshot, byte offsets relative to the read. */
void elio_io_add_part(void *request, struct block_device *device, u64 sector, void *read, u64 from, u64 bytes)
{
	struct bio *bio = bio_alloc_clone(device, elio_read_bio(read), GFP_NOIO, &elio_bios);

	bio->bi_opf = REQ_OP_READ | REQ_SYNC;
	bio_advance(bio, from);
	bio->bi_iter.bi_size = bytes;
	bio->bi_iter.bi_sector = sector;
	elio_io_send(request, bio);
}

void elio_io_flush(void *request, struct block_device *device)
{
	elio_io_send(request, elio_io_bio(request, device, 0, REQ_OP_WRITE | REQ_PREFLUSH | REQ_SYNC));
}

void elio_io_start(void *request)
{
	elio_io_put(request);
}

int elio_io_error(const struct elio_event *event)
{
	return blk_status_to_errno(container_of(event, struct elio_io, event)->status);
}

void elio_io_free(struct elio_event *event)
{
	struct elio_io *io = container_of(event, struct elio_io, event);
	struct elio_spares *spares = elio_worker_spares(io->worker);

	if (spares->count >= ELIO_SPARE) {
		kmem_cache_free(elio_ios, io);
		return;
	}
	io->event.node.next = spares->first;
	spares->first = &io->event.node;
	spares->count++;
}

int elio_io_sync_read(struct block_device *device, u64 sector, void *memory, size_t bytes)
{
	struct bio *bio = bio_alloc_bioset(device, 2, REQ_OP_READ | REQ_SYNC, GFP_NOIO, &elio_bios);
	int error = -EIO;

	bio->bi_iter.bi_sector = sector;
	if (elio_bio_fill(bio, memory, bytes) == bytes)
		error = submit_bio_wait(bio);
	bio_put(bio);
	return error;
}
