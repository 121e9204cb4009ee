// SPDX-License-Identifier: GPL-2.0-only
/*
 * Own I/O: requests made of bios, answered by one event each.
 *
 * Invariants: every own bio is from elio_bios, by which it is recognised even when the block layer
 * submits what remains of it after a split. A request holds one count of its own until it is
 * started, so that it cannot end before it is complete.
 */
#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/slab.h>

#include "shim.h"

struct elio_io {
	struct elio_event event;
	struct elio_worker *worker;
	u64 token;
	atomic_t pending;
	blk_status_t status;
};

static struct bio_set elio_bios;

int elio_bio_init(void)
{
	return bioset_init(&elio_bios, 128, 0, BIOSET_NEED_BVECS | BIOSET_NEED_RESCUER);
}

void elio_bio_exit(void)
{
	bioset_exit(&elio_bios);
}

bool elio_bio_is_own(const struct bio *bio)
{
	return bio->bi_pool == &elio_bios;
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

void *elio_io_new(struct elio_worker *worker, u64 token)
{
	struct elio_io *io = kzalloc(sizeof(*io), GFP_NOIO | __GFP_NOFAIL);

	io->event.kind = ELIO_EVENT_IO;
	io->worker = worker;
	io->token = token;
	atomic_set(&io->pending, 1);
	return io;
}

static void elio_io_put(struct elio_io *io)
{
	if (atomic_dec_and_test(&io->pending))
		elio_worker_post(io->worker, &io->event);
}

static void elio_io_endio(struct bio *bio)
{
	struct elio_io *io = bio->bi_private;

	if (bio->bi_status)
		WRITE_ONCE(io->status, bio->bi_status);
	bio_put(bio);
	elio_io_put(io);
}

static void elio_io_send(struct elio_io *io, struct bio *bio)
{
	bio->bi_private = io;
	bio->bi_end_io = elio_io_endio;
	atomic_inc(&io->pending);
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
		struct bio *bio = bio_alloc_bioset(device, pages, elio_opf(op), GFP_NOIO, &elio_bios);
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
	struct bio *bio = bio_alloc_bioset(device, 0, REQ_OP_WRITE | REQ_PREFLUSH | REQ_SYNC, GFP_NOIO, &elio_bios);

	elio_io_send(request, bio);
}

void elio_io_start(void *request)
{
	elio_io_put(request);
}

static const struct elio_io *elio_io_of(const struct elio_event *event)
{
	return container_of(event, struct elio_io, event);
}

u64 elio_io_token(const struct elio_event *event)
{
	return elio_io_of(event)->token;
}

int elio_io_error(const struct elio_event *event)
{
	return blk_status_to_errno(elio_io_of(event)->status);
}

void elio_io_free(struct elio_event *event)
{
	kfree(container_of(event, struct elio_io, event));
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
