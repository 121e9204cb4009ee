// SPDX-License-Identifier: GPL-2.0-only
//! `shim/shim.h`, word for word. C's `size_t` and pointers have the width of `usize`.

use core::ffi::c_void;

/// A pointer to something of C's.
pub(super) type Opaque = *mut c_void;

extern "C" {
    pub(super) fn elio_alloc(bytes: usize) -> Opaque;
    pub(super) fn elio_alloc_sure(bytes: usize) -> Opaque;
    pub(super) fn elio_free(memory: Opaque);
    #[cfg(rfl)]
    pub(super) fn elio_noio_enter() -> u32;
    #[cfg(rfl)]
    pub(super) fn elio_noio_leave(saved: u32);
    pub(super) fn elio_from_user(to: *mut u8, from: u64, bytes: usize) -> i32;
    pub(super) fn elio_to_user(to: u64, from: *const u8, bytes: usize) -> i32;
    pub(super) fn elio_string_from_user(from: u64, limit: usize, error: *mut i64) -> *mut u8;
    pub(super) fn elio_random(to: *mut u8, bytes: usize);

    pub(super) fn elio_mutex_new(rank: u32) -> Opaque;
    pub(super) fn elio_mutex_lock(mutex: Opaque);
    pub(super) fn elio_mutex_try_lock(mutex: Opaque) -> bool;
    pub(super) fn elio_mutex_unlock(mutex: Opaque);
    pub(super) fn elio_mutex_free(mutex: Opaque);
    pub(super) fn elio_signal_new() -> Opaque;
    pub(super) fn elio_signal_raise(signal: Opaque);
    pub(super) fn elio_signal_wait(signal: Opaque);
    pub(super) fn elio_signal_free(signal: Opaque);
    pub(super) fn elio_rcu_wait();

    pub(super) fn elio_print(
        level: u32,
        text: *const u8,
        length: usize,
        number: u64,
        why: *const u8,
        why_length: usize,
        error: i64,
    );
    pub(super) fn elio_bug();

    pub(super) fn elio_worker_new(context: Opaque, minor: u32) -> Opaque;
    pub(super) fn elio_worker_kick(worker: Opaque);
    pub(super) fn elio_worker_put(worker: Opaque, event: Opaque) -> bool;
    pub(super) fn elio_worker_begin(worker: Opaque);
    pub(super) fn elio_worker_end(worker: Opaque);
    pub(super) fn elio_worker_take(worker: Opaque) -> Opaque;
    pub(super) fn elio_event_next(event: Opaque) -> Opaque;
    pub(super) fn elio_event_set_next(event: Opaque, next: Opaque);
    pub(super) fn elio_event_kind(event: Opaque) -> u32;
    pub(super) fn elio_worker_tick_every(worker: Opaque, seconds: u32);
    pub(super) fn elio_worker_take_tick(worker: Opaque) -> bool;
    pub(super) fn elio_worker_stop(worker: Opaque);
    pub(super) fn elio_worker_free(worker: Opaque);

    pub(super) fn elio_target_new(device: Opaque, worker: Opaque, tracker: Opaque) -> Opaque;
    pub(super) fn elio_target_publish(target: Opaque) -> bool;
    pub(super) fn elio_target_unpublish(target: Opaque);
    pub(super) fn elio_target_free(target: Opaque);
    pub(super) fn elio_write_op(write: Opaque) -> u32;
    pub(super) fn elio_write_nowait(write: Opaque) -> bool;
    pub(super) fn elio_write_lane(write: Opaque) -> u32;
    pub(super) fn elio_write_offset(write: Opaque) -> u64;
    pub(super) fn elio_write_length(write: Opaque) -> u64;
    pub(super) fn elio_write_peek(write: Opaque, offset: u64, to: *mut u8, length: usize) -> bool;
    pub(super) fn elio_write_submit(write: Opaque);
    pub(super) fn elio_write_end(write: Opaque, error: i32);

    pub(super) fn elio_io_new(worker: Opaque) -> Opaque;
    pub(super) fn elio_io_job(io: Opaque) -> Opaque;
    pub(super) fn elio_io_add(io: Opaque, device: Opaque, op: u32, sector: u64, memory: *mut u8, bytes: usize);
    pub(super) fn elio_io_add_part(io: Opaque, device: Opaque, sector: u64, read: Opaque, from: u64, bytes: u64);
    pub(super) fn elio_io_flush(io: Opaque, device: Opaque);
    pub(super) fn elio_io_start(io: Opaque);
    pub(super) fn elio_io_error(event: Opaque) -> i32;
    pub(super) fn elio_io_free(event: Opaque);
    pub(super) fn elio_io_sync_read(device: Opaque, sector: u64, memory: *mut u8, bytes: usize) -> i32;

    pub(super) fn elio_device_open(path: *const u8, error: *mut i64) -> Opaque;
    pub(super) fn elio_device_bdev(device: Opaque) -> Opaque;
    pub(super) fn elio_device_put(device: Opaque);
    pub(super) fn elio_device_rest(device: Opaque);
    pub(super) fn elio_device_bytes(device: Opaque) -> u64;
    pub(super) fn elio_device_mounted(device: Opaque) -> u32;
    pub(super) fn elio_device_refusal(device: Opaque) -> i32;
    pub(super) fn elio_device_id(device: Opaque) -> u64;
    pub(super) fn elio_device_quiesce(device: Opaque);
    pub(super) fn elio_device_freeze(device: Opaque) -> i32;
    pub(super) fn elio_device_thaw(device: Opaque) -> i32;

    pub(super) fn elio_cow_create(
        path: *const u8,
        device: Opaque,
        marks_from: u64,
        marks_to: u64,
        bytes: u64,
        error: *mut i64,
    ) -> Opaque;
    pub(super) fn elio_cow_settle(cow: Opaque);
    pub(super) fn elio_cow_write(
        cow: Opaque,
        made: Opaque,
        offset: u64,
        memory: *const u8,
        bytes: usize,
        sync: bool,
    ) -> i32;
    pub(super) fn elio_cow_find(path: *const u8, length: usize, device: Opaque, error: *mut i64) -> Opaque;
    pub(super) fn elio_cow_is_mounted(cow: Opaque) -> bool;
    pub(super) fn elio_cow_is_pinned(cow: Opaque) -> bool;
    pub(super) fn elio_cow_extents(cow: Opaque, count: *mut u32) -> *const super::file::Piece;
    pub(super) fn elio_cow_path(cow: Opaque) -> *const u8;
    pub(super) fn elio_cow_is(cow: Opaque, path: *const u8) -> bool;
    pub(super) fn elio_cow_truncate(cow: Opaque, bytes: u64) -> i32;
    pub(super) fn elio_cow_close(cow: Opaque);
    pub(super) fn elio_cow_remove(cow: Opaque) -> i32;

    pub(super) fn elio_disk_new(minor: u32, device: Opaque, worker: Opaque, error: *mut i64) -> Opaque;
    pub(super) fn elio_disk_claim(disk: Opaque) -> bool;
    pub(super) fn elio_disk_unclaim(disk: Opaque);
    pub(super) fn elio_disk_is_open(disk: Opaque) -> bool;
    pub(super) fn elio_disk_remove(disk: Opaque);
    pub(super) fn elio_read_offset(read: Opaque) -> u64;
    pub(super) fn elio_read_length(read: Opaque) -> u64;
    pub(super) fn elio_read_fill(read: Opaque, from: u64, memory: *const u8, bytes: u64);
    pub(super) fn elio_read_send(read: Opaque, device: Opaque, sector: u64);
    pub(super) fn elio_read_end(read: Opaque, error: i32);

    pub(super) fn elio_proc_put(out: Opaque, bytes: *const u8, length: usize);
    #[cfg(rfl)]
    pub(super) fn elio_parts_init() -> i32;
    #[cfg(rfl)]
    pub(super) fn elio_parts_exit();
    pub(super) fn elio_max_devices() -> u32;
    pub(super) fn elio_default_cache() -> u64;
    pub(super) fn elio_default_percentage() -> u32;
    pub(super) fn elio_is_debugging() -> bool;
}
