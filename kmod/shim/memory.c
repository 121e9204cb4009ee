// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory and the caller's memory.
 *
 * Invariant: nothing here starts I/O to get memory, because what waits for it may be the I/O.
 */
#include <linux/mm.h>
#include <linux/random.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "shim.h"

/* For allocations that are not made here. */
u32 elio_noio_enter(void)
{
	return memalloc_noio_save();
}

void elio_noio_leave(u32 saved)
{
	memalloc_noio_restore(saved);
}

void *elio_alloc(size_t bytes)
{
	unsigned int saved = memalloc_noio_save();
	void *memory = kvzalloc(bytes, GFP_KERNEL | __GFP_NOWARN | __GFP_RETRY_MAYFAIL);

	memalloc_noio_restore(saved);
	return memory;
}

/* For at most a page, without which nothing can go on. */
void *elio_alloc_sure(size_t bytes)
{
	return kzalloc(bytes, GFP_NOIO | __GFP_NOFAIL);
}

void elio_free(void *memory)
{
	kvfree(memory);
}

int elio_from_user(void *to, u64 from, size_t bytes)
{
	return copy_from_user(to, (const void __user *)from, bytes) ? -EFAULT : 0;
}

int elio_to_user(u64 to, const void *from, size_t bytes)
{
	return copy_to_user((void __user *)to, from, bytes) ? -EFAULT : 0;
}

/* The string, to be freed with elio_free(), or NULL and an error. */
void *elio_string_from_user(u64 from, size_t limit, long *error)
{
	char *text = strndup_user((const char __user *)from, limit);

	if (IS_ERR(text)) {
		*error = PTR_ERR(text);
		return NULL;
	}
	return text;
}

void elio_random(void *to, size_t bytes)
{
	get_random_bytes(to, bytes);
}
