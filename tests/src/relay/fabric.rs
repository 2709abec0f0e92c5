//! The rules of the relay: which frame goes where, when, and which is lost. No I/O.

use crate::random::Random;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A port of the switch: its place in the list of hosts.
pub type PortNumber = usize;

/// Bytes that may be on their way in all. Beyond it a frame is dropped, as a switch with full queues does:
/// 1 Gbit/s for half a second.
const BYTES_ON_THE_WAY_MAX: usize = 64 << 20;

/// Ethernet: destination, then source, six bytes each.
const ADDRESS_BYTES: usize = 6;

/// The faults of one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Way {
    /// Nothing arrives.
    pub cut: bool,
    /// Added to the way of every frame.
    pub delay: Duration,
    /// Share of lost frames, 0 to 1.
    pub loss: f64,
}

/// A learning switch with faults.
#[derive(Debug)]
pub struct Fabric {
    ports: usize,
    ways: BTreeMap<(PortNumber, PortNumber), Way>,
    places: HashMap<[u8; ADDRESS_BYTES], PortNumber>,
    /// Bytes before the Ethernet header that belong to the frame and are only carried along.
    prefix_bytes: usize,
    on_the_way: BinaryHeap<Reverse<Travelling>>,
    bytes_on_the_way: usize,
    /// Keeps frames of equal time in the order of their arrival.
    next_order: u64,
    random: Random,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Travelling {
    due: Instant,
    order: u64,
    to: PortNumber,
    frame: Arc<[u8]>,
}

impl Fabric {
    /// A healthy switch; `seed` decides every loss.
    pub fn new(ports: usize, prefix_bytes: usize, seed: u64) -> Self {
        Fabric {
            ports,
            ways: BTreeMap::new(),
            places: HashMap::new(),
            prefix_bytes,
            on_the_way: BinaryHeap::new(),
            bytes_on_the_way: 0,
            next_order: 0,
            random: Random::new(seed),
        }
    }

    /// Replaces all faults. Frames already on the way over a way that is cut now are lost with it.
    pub fn set_ways(&mut self, ways: BTreeMap<(PortNumber, PortNumber), Way>) {
        self.ways = ways;
    }

    /// A frame came in.
    pub fn arrived(&mut self, from: PortNumber, frame: &[u8], now: Instant) {
        let Some((destination, source)) = self.addresses(frame) else {
            return; // too short to be a frame
        };
        if !is_group(&source) {
            self.places.insert(source, from);
        }
        let frame: Arc<[u8]> = frame.into();
        match self.places.get(&destination) {
            Some(&to) if !is_group(&destination) => self.send(from, to, &frame, now),
            _ => (0..self.ports).for_each(|to| self.send(from, to, &frame, now)),
        }
    }

    /// The next frame to hand out, if its time has come.
    pub fn departing(&mut self, now: Instant) -> Option<(PortNumber, Arc<[u8]>)> {
        if self.on_the_way.peek()?.0.due > now {
            return None;
        }
        let Reverse(Travelling { to, frame, .. }) = self.on_the_way.pop()?;
        self.bytes_on_the_way -= frame.len();
        Some((to, frame))
    }

    /// When [`Fabric::departing`] has something next.
    pub fn deadline(&self) -> Option<Instant> {
        self.on_the_way.peek().map(|Reverse(next)| next.due)
    }

    fn send(&mut self, from: PortNumber, to: PortNumber, frame: &Arc<[u8]>, now: Instant) {
        if from == to {
            return;
        }
        let way = self.ways.get(&(from, to)).copied().unwrap_or_default();
        if way.cut || (way.loss > 0.0 && self.random.chance(way.loss)) {
            return;
        }
        if self.bytes_on_the_way + frame.len() > BYTES_ON_THE_WAY_MAX {
            return;
        }
        self.bytes_on_the_way += frame.len();
        self.on_the_way.push(Reverse(Travelling {
            due: now + way.delay,
            order: self.next_order,
            to,
            frame: frame.clone(),
        }));
        self.next_order += 1;
    }

    fn addresses(&self, frame: &[u8]) -> Option<([u8; ADDRESS_BYTES], [u8; ADDRESS_BYTES])> {
        let (destination, rest) = frame.get(self.prefix_bytes..)?.split_first_chunk()?;
        Some((*destination, *rest.first_chunk()?))
    }
}

/// Broadcast and multicast addresses have the lowest bit of the first byte set.
fn is_group(address: &[u8; ADDRESS_BYTES]) -> bool {
    address[0] & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PortNumber = 0;
    const B: PortNumber = 1;
    const C: PortNumber = 2;
    const PREFIX: usize = 10;

    fn frame(from: PortNumber, to: Option<PortNumber>) -> Vec<u8> {
        let mut bytes = vec![0; PREFIX];
        bytes.extend(to.map_or([0xff; 6], |to| [2, 0, 0, 0, 0, to as u8]));
        bytes.extend([2, 0, 0, 0, 0, from as u8]);
        bytes
    }

    fn all_departing(fabric: &mut Fabric, now: Instant) -> Vec<PortNumber> {
        std::iter::from_fn(|| fabric.departing(now).map(|(to, _)| to)).collect()
    }

    /// A switch that knows where A, B and C are.
    fn learned(now: Instant) -> Fabric {
        let mut fabric = Fabric::new(3, PREFIX, 1);
        for port in [A, B, C] {
            fabric.arrived(port, &frame(port, None), now);
        }
        all_departing(&mut fabric, now);
        fabric
    }

    #[test]
    fn a_broadcast_reaches_all_others_and_a_known_address_only_its_port() {
        let now = Instant::now();
        let mut fabric = learned(now);
        fabric.arrived(A, &frame(A, None), now);
        assert_eq!(all_departing(&mut fabric, now), [B, C]);
        fabric.arrived(A, &frame(A, Some(C)), now);
        assert_eq!(all_departing(&mut fabric, now), [C]);
    }

    #[test]
    fn an_address_that_moves_is_found_at_its_new_port() {
        let now = Instant::now();
        let mut fabric = learned(now);
        fabric.arrived(C, &frame(B, None), now);
        all_departing(&mut fabric, now);
        fabric.arrived(A, &frame(A, Some(B)), now);
        assert_eq!(all_departing(&mut fabric, now), [C]);
    }

    #[test]
    fn a_one_way_cut_leaves_the_way_back_open() {
        let now = Instant::now();
        let mut fabric = learned(now);
        let cut = Way {
            cut: true,
            ..Way::default()
        };
        fabric.set_ways(BTreeMap::from([((A, B), cut)]));
        fabric.arrived(A, &frame(A, Some(B)), now);
        assert!(all_departing(&mut fabric, now).is_empty());
        fabric.arrived(B, &frame(B, Some(A)), now);
        assert_eq!(all_departing(&mut fabric, now), [A]);
    }

    #[test]
    fn a_delayed_frame_waits_for_its_time_and_keeps_its_place() {
        let now = Instant::now();
        let delay = Duration::from_millis(5);
        let mut fabric = learned(now);
        let slow = Way {
            delay,
            ..Way::default()
        };
        fabric.set_ways(BTreeMap::from([((A, B), slow)]));
        let mut first = frame(A, Some(B));
        first.push(1);
        let mut second = frame(A, Some(B));
        second.push(2);
        fabric.arrived(A, &first, now);
        fabric.arrived(A, &second, now);
        assert!(fabric.departing(now).is_none());
        assert_eq!(fabric.deadline(), Some(now + delay));
        let arrivals: Vec<_> = std::iter::from_fn(|| fabric.departing(now + delay))
            .map(|(_, frame)| *frame.last().unwrap())
            .collect();
        assert_eq!(arrivals, [1, 2]);
    }

    #[test]
    fn the_share_of_lost_frames_is_what_was_asked_for_and_repeats_with_the_seed() {
        let survivors = |seed| {
            let now = Instant::now();
            let mut fabric = Fabric::new(2, PREFIX, seed);
            let lossy = Way {
                loss: 0.25,
                ..Way::default()
            };
            fabric.set_ways(BTreeMap::from([((A, B), lossy)]));
            (0..10_000)
                .filter(|_| {
                    fabric.arrived(A, &frame(A, Some(B)), now);
                    fabric.departing(now).is_some()
                })
                .collect::<Vec<_>>()
        };
        let first = survivors(7);
        assert!((7_300..7_700).contains(&first.len()), "{}", first.len());
        assert_eq!(first, survivors(7));
        assert_ne!(first, survivors(8));
    }

    #[test]
    fn frames_beyond_the_bound_are_dropped_and_short_ones_ignored() {
        let now = Instant::now();
        let mut fabric = Fabric::new(2, PREFIX, 1);
        fabric.arrived(A, &[0; PREFIX + 11], now);
        assert!(fabric.departing(now).is_none());
        let mut big = frame(A, Some(B));
        big.resize(BYTES_ON_THE_WAY_MAX / 2 + 1, 0);
        fabric.arrived(A, &big, now);
        fabric.arrived(A, &big, now);
        assert_eq!(all_departing(&mut fabric, now), [B]);
    }
}
