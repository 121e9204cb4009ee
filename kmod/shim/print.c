// SPDX-License-Identifier: GPL-2.0-only
/* The kernel's log. */
#include <linux/bug.h>
#include <linux/kernel.h>
#include <linux/printk.h>
#include <linux/string.h>

#include "shim.h"

/* `%` in the text stands for the number; the reason and an error other than 0 are appended. */
void elio_print(u32 level, const u8 *text, size_t length, u64 number, const u8 *why, size_t why_length, s64 error)
{
	const u8 *mark = memchr(text, '%', length);
	int before = mark ? mark - text : length;
	int after = mark ? length - before - 1 : 0;
	char digits[24] = "", code[32] = "";

	if (mark)
		snprintf(digits, sizeof(digits), "%llu", number);
	if (error)
		snprintf(code, sizeof(code), ": error %lld", error);
	printk("%c%celastio-snap: %.*s%s%.*s%s%.*s%s\n", KERN_SOH_ASCII, '0' + (level & 7), before, text, digits, after,
	       mark ? mark + 1 : text, why_length ? ": " : "", (int)why_length, why, code);
}

/* Rust cannot go on. Not declared noreturn: objtool would find code behind it missing. */
void elio_bug(void)
{
	static int always = 1;

	BUG_ON(READ_ONCE(always));
}
