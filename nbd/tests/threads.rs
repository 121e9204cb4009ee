// SPDX-License-Identifier: GPL-2.0-only
//! No thread is leaked, however clients come and go. Alone in its process, because it counts.

mod common;

use std::{fs, sync::Arc};

use common::{Memory, Raw, Site};
use nbd::protocol::Command;

fn threads() -> usize {
    fs::read_dir("/proc/self/task").unwrap().count()
}

#[test]
fn every_thread_ends_with_its_client() {
    let before = threads();
    let memory = Memory::new(1 << 20);
    let site = Site::new(memory.clone());
    for round in 0..30 {
        let mut raw = Raw::go(&site.socket(), true, None);
        match round % 4 {
            0 => raw.request(Command::Disconnect, 0, 0, 0, 0),
            1 => {
                raw.request(Command::Write, 0, 1, 0, 4096);
                raw.put(&[1; 100]);
            }
            2 => (0..60).for_each(|handle| raw.request(Command::Read, 0, handle, 0, 1 << 20)),
            _ => site.client().write_at(0, &[1; 4096]).unwrap(),
        }
    }
    let clients = memory.update(|state| state.disconnects);
    assert!(clients <= 37);
    memory.wait_until("all have left", |state| state.disconnects == 30 + 7);
    site.handle.shutdown();
    assert_eq!(threads(), before);
    assert_eq!(Arc::strong_count(&memory), 1);
}
