// SPDX-License-Identifier: GPL-2.0-only
//! The simulator's memory: cheap to copy, so that a state can be kept and gone back to.
//!
//! Invariant: a [`Frame`] is shared until somebody changes it. The known bug that is switched on is
//! a matter of the thread, so that tests beside each other do not disturb one another.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use model::heap::Bounded;
use model::memory::{Block, Memory, BLOCK_SIZE};
use model::mutant::Mutant;

thread_local! {
    static SELECTED: Cell<Option<Mutant>> = const { Cell::new(None) };
}

/// Switches a known bug of the model on for this thread, or all of them off.
pub fn select(mutant: Option<Mutant>) {
    SELECTED.set(mutant);
}

/// The memory of simulated devices.
#[derive(Clone, Copy, Debug)]
pub struct Simulated;

impl Memory for Simulated {
    type Vec<T: Clone> = Bounded<T>;
    type Page = Frame;
    type Shared<T: Clone> = Rc<T>;

    fn has(mutant: Mutant) -> bool {
        SELECTED.get() == Some(mutant)
    }
}

/// One block of memory, copied when it is changed.
#[derive(Clone, Debug)]
pub struct Frame(Rc<Block>);

impl Frame {
    /// A block of zeroes.
    pub fn zeroed() -> Frame {
        Frame(Rc::new([0; BLOCK_SIZE]))
    }
}

impl Deref for Frame {
    type Target = Block;
    fn deref(&self) -> &Block {
        &self.0
    }
}

impl DerefMut for Frame {
    fn deref_mut(&mut self) -> &mut Block {
        Rc::make_mut(&mut self.0)
    }
}
