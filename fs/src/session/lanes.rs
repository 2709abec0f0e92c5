//! Which operation may run when: what touches a common inode runs in order, names run in one lane.
//!
//! Both nodes use it, each with its own key: the secondary the session's numbers, the primary its slots. It knows
//! only what is unfinished; admitting and finishing cost a few hash look-ups, however much is under way.

use crate::hash::HashMap;
use crate::operation::{InodeId, Operation, Touched};
use std::hash::Hash;

/// The unfinished operations and what each waits for.
///
/// Keys are admitted in ascending order, each once.
#[derive(Debug)]
pub struct Lanes<K> {
    unfinished: HashMap<K, Waiter<K>>,
    last_name: Option<K>,
    /// The last unfinished operation of each inode; orders to sync are never in it, since nothing waits for them.
    last_of: HashMap<InodeId, K>,
}

#[derive(Debug)]
struct Waiter<K> {
    /// Earlier operations and closed gates it waits for; an operation that is waited for in two ways counts twice.
    waits: u32,
    touched: Touched,
    /// What waits for it, once for each time it is counted there.
    followers: Vec<K>,
}

impl<K> Default for Lanes<K> {
    fn default() -> Self {
        Lanes {
            unfinished: HashMap::default(),
            last_name: None,
            last_of: HashMap::default(),
        }
    }
}

impl<K: Copy + Eq + Hash> Lanes<K> {
    /// Takes the next operation, which waits for `gates` calls of [`Lanes::open`] besides. True when it may run now.
    pub fn admit(&mut self, key: K, operation: &Operation, gates: u32) -> bool {
        let touched = operation.touched();
        let mut waits = gates;
        if matches!(operation, Operation::Checkpoint) {
            for earlier in self.unfinished.values_mut() {
                earlier.followers.push(key);
                waits += 1;
            }
        } else {
            if operation.is_name_operation() || operation.is_sync() {
                waits += self.follow(self.last_name, key);
            }
            for inode in touched.iter() {
                waits += self.follow(self.last_of.get(inode).copied(), key);
            }
        }
        if !operation.is_sync() {
            if operation.is_name_operation() {
                self.last_name = Some(key);
            }
            for inode in touched.iter() {
                self.last_of.insert(*inode, key);
            }
        }
        let waiter = Waiter {
            waits,
            touched,
            followers: Vec::new(),
        };
        self.unfinished.insert(key, waiter);
        waits == 0
    }

    /// Opens one gate of an operation. True when it may run now.
    pub fn open(&mut self, key: K) -> bool {
        let Some(waiter) = self.unfinished.get_mut(&key) else {
            return false;
        };
        if waiter.waits == 0 {
            return false;
        }
        waiter.waits -= 1;
        waiter.waits == 0
    }

    /// An operation that could run has ended; appends what may run now. False, and nothing changes, when it is
    /// unknown or still waits: letting its followers go would let them overtake what it waits for.
    pub fn finish(&mut self, key: K, ready: &mut impl Extend<K>) -> bool {
        if self.unfinished.get(&key).is_none_or(|waiter| waiter.waits > 0) {
            return false;
        }
        let Some(finished) = self.unfinished.remove(&key) else {
            return false;
        };
        for inode in finished.touched.iter() {
            if self.last_of.get(inode) == Some(&key) {
                self.last_of.remove(inode);
            }
        }
        if self.last_name == Some(key) {
            self.last_name = None;
        }
        for follower in finished.followers {
            if self.open(follower) {
                ready.extend([follower]);
            }
        }
        true
    }

    /// How many operations are unfinished.
    pub fn len(&self) -> usize {
        self.unfinished.len()
    }

    /// True when nothing is unfinished.
    pub fn is_empty(&self) -> bool {
        self.unfinished.is_empty()
    }

    fn follow(&mut self, earlier: Option<K>, key: K) -> u32 {
        match earlier.and_then(|earlier| self.unfinished.get_mut(&earlier)) {
            Some(waiter) => {
                waiter.followers.push(key);
                1
            }
            None => 0,
        }
    }
}

#[cfg(test)]
mod tests;
