// SPDX-License-Identifier: GPL-2.0-only
/*
 * A worker: a queue that anybody may post to, and a thread that empties it; so does whoever comes
 * by, under a lock of the tracker's.
 *
 * Invariants: what is posted is taken by whoever works at that moment, or elio_rs_work() runs at
 * least once more, and never twice at once for one worker. What is posted last comes out last.
 */
#include <linux/atomic.h>
#include <linux/jiffies.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

#include "shim.h"

struct elio_worker {
	struct llist_head events;
	int working; /* somebody is, and looks at the queue again before it ends */
	struct workqueue_struct *queue;
	struct work_struct work;
	struct delayed_work tick;
	struct elio_spares spares;
	unsigned long period;
	atomic_t ticked;
	void *context;
};

static void elio_work(struct work_struct *work)
{
	struct elio_worker *worker = container_of(work, struct elio_worker, work);
	unsigned int saved = memalloc_noio_save();

	elio_rs_work(worker->context);
	memalloc_noio_restore(saved);
}

static void elio_tick(struct work_struct *work)
{
	struct elio_worker *worker = container_of(work, struct elio_worker, tick.work);

	atomic_set(&worker->ticked, 1);
	queue_work(worker->queue, &worker->work);
	queue_delayed_work(worker->queue, &worker->tick, worker->period);
}

struct elio_worker *elio_worker_new(void *context, u32 minor)
{
	struct elio_worker *worker = kzalloc(sizeof(*worker), GFP_KERNEL);

	if (!worker)
		return NULL;
	init_llist_head(&worker->events);
	INIT_WORK(&worker->work, elio_work);
	INIT_DELAYED_WORK(&worker->tick, elio_tick);
	worker->context = context;
	worker->queue = alloc_ordered_workqueue("elastio_snap%u", WQ_MEM_RECLAIM | WQ_HIGHPRI, minor);
	if (!worker->queue || !elio_io_reserve(&worker->spares)) {
		if (worker->queue)
			destroy_workqueue(worker->queue);
		kfree(worker);
		return NULL;
	}
	return worker;
}

void *elio_worker_context(const struct elio_worker *worker)
{
	return worker->context;
}

struct elio_spares *elio_worker_spares(struct elio_worker *worker)
{
	return &worker->spares;
}

/* Whether somebody works who sees it; else the caller sees to that. */
bool elio_worker_put(struct elio_worker *worker, struct elio_event *event)
{
	/* A barrier, as the one in elio_worker_end(). */
	llist_add(&event->node, &worker->events);
	return READ_ONCE(worker->working);
}

void elio_worker_post(struct elio_worker *worker, struct elio_event *event)
{
	if (!elio_worker_put(worker, event))
		queue_work(worker->queue, &worker->work);
}

/* The caller works until elio_worker_end(), and is alone in that. */
void elio_worker_begin(struct elio_worker *worker)
{
	WRITE_ONCE(worker->working, 1);
}

void elio_worker_end(struct elio_worker *worker)
{
	WRITE_ONCE(worker->working, 0);
	smp_mb();
	if (!llist_empty(&worker->events))
		queue_work(worker->queue, &worker->work);
}

void elio_worker_kick(struct elio_worker *worker)
{
	queue_work(worker->queue, &worker->work);
}

/* Everything that was posted, in order. */
struct elio_event *elio_worker_take(struct elio_worker *worker)
{
	struct llist_node *first = llist_del_all(&worker->events);

	if (!first)
		return NULL;
	return container_of(llist_reverse_order(first), struct elio_event, node);
}

struct elio_event *elio_event_next(struct elio_event *event)
{
	return event->node.next ? container_of(event->node.next, struct elio_event, node) : NULL;
}

void elio_event_set_next(struct elio_event *event, struct elio_event *next)
{
	event->node.next = next ? &next->node : NULL;
}

u32 elio_event_kind(const struct elio_event *event)
{
	return event->kind;
}

void elio_worker_tick_every(struct elio_worker *worker, u32 seconds)
{
	worker->period = seconds * HZ;
	queue_delayed_work(worker->queue, &worker->tick, worker->period);
}

bool elio_worker_take_tick(struct elio_worker *worker)
{
	return atomic_xchg(&worker->ticked, 0);
}

/* Nobody may post or kick any more. */
void elio_worker_stop(struct elio_worker *worker)
{
	cancel_delayed_work_sync(&worker->tick);
	drain_workqueue(worker->queue);
}

void elio_worker_free(struct elio_worker *worker)
{
	destroy_workqueue(worker->queue);
	elio_io_drop(&worker->spares);
	kfree(worker);
}
