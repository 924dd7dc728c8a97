//! Which partition does a record go to? The one that Kafka would choose for the same key.
//!
//! In this order: the partition that the caller named, the choice of a custom [`Partitioner`], the
//! hash of the key, and for records without a key a partition that changes about once a batch
//! (KIP-794).

use crate::error::{Error, Result};
use crate::rng::SplitMix64;
use crate::sync::{AtomicU32, Mutex, Ordering, Rank};
use crate::types::TopicName;

/// Chooses partitions in place of the hash of the key.
///
/// ```
/// use quipu::{Partitioner, TopicName};
///
/// /// Keys that begin with '!' overtake the others: they have partition 0 for themselves.
/// struct Urgent;
///
/// impl Partitioner for Urgent {
///     fn partition(&self, _: &TopicName, key: Option<&[u8]>, _: Option<&[u8]>, partitions: u32) -> Option<u32> {
///         match key {
///             Some([b'!', ..]) => Some(0),
///             Some(key) if partitions > 1 => Some(1 + quipu::partition_for_key(key, partitions - 1)),
///             _ => None,
///         }
///     }
/// }
/// ```
pub trait Partitioner: Send + Sync {
    /// The partition, from 0 to `partitions - 1`, for a record with this key and value. `None`
    /// leaves the choice to the hash of the key, or for a record without a key to the producer.
    ///
    /// A number beyond the last partition makes the send fail with
    /// [`Error::UnknownPartition`](crate::Error::UnknownPartition); nothing is appended. It runs
    /// inside the call to `send`, under no lock.
    fn partition(
        &self,
        topic: &TopicName,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        partitions: u32,
    ) -> Option<u32>;
}

/// The partition of a key among `partitions` of them, as Kafka's default partitioner and
/// librdkafka's `murmur2` compute it (`BuiltInPartitioner.partitionForKey`). An empty key is a key
/// like any other.
///
/// More partitions change where keys go; no record is moved.
///
/// ```
/// assert_eq!(quipu::partition_for_key(b"kafka", 1000), 580);
/// ```
pub fn partition_for_key(key: &[u8], partitions: u32) -> u32 {
    // The sign bit is masked off, not negated: Kafka's `toPositive`.
    (murmur2(key) & 0x7fff_ffff) % partitions.max(1)
}

/// Whether a record with this key may go to a partition that the caller chose, in a topic whose
/// keys are streams.
///
/// # Errors
/// `Streams`: its stream is in another partition.
pub(crate) fn check_stream(
    topic: &TopicName,
    key: Option<&[u8]>,
    partition: u32,
    partitions: u32,
) -> Result<()> {
    if key.is_none_or(|key| partition_for_key(key, partitions) == partition) {
        return Ok(());
    }
    let reason = "a stream must be in the partition of its key";
    Err(Error::Streams { topic: topic.clone(), reason })
}

/// MurmurHash2 of 32 bits with Kafka's seed (`Utils.murmur2`).
pub(crate) fn murmur2(bytes: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    const R: u32 = 24;

    // Kafka's length is an `int`; the cast wraps as Java's would.
    let mut h = SEED ^ bytes.len() as u32;
    let (words, rest) = bytes.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> R;
        h = h.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !rest.is_empty() {
        let tail = rest.iter().rev().fold(0, |tail, byte| tail << 8 | u32::from(*byte));
        h = (h ^ tail).wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    h ^ h >> 15
}

/// Where one producer sends the records of one topic that have no key (KIP-794).
///
/// It stays on a partition until about a batch went there, then goes to another one, each equally
/// likely. A sent batch is no reason to switch, so a slow partition does not attract more than its
/// share (the flaw of KIP-480).
pub(crate) struct Sticky {
    /// The partition now, or [`NOT_CHOSEN`]. It is left only by [`Sticky::leave`], which is called
    /// under the lock of that partition's buffer: a thread that holds that lock and finds the
    /// partition here keeps it until it releases the lock. All other threads take it as a hint, so
    /// no ordering is needed.
    current: AtomicU32,
    random: Mutex<SplitMix64>,
}

impl Sticky {
    /// Different seeds give different paths over the partitions, the same seed the same.
    pub(crate) fn new(seed: u64) -> Self {
        Sticky {
            current: AtomicU32::new(NOT_CHOSEN),
            random: Mutex::new(Rank::Random, SplitMix64::new(seed)),
        }
    }

    /// The partition for the next record, out of `partitions`.
    #[inline]
    pub(crate) fn current(&self, partitions: u32) -> u32 {
        match self.current.load(Ordering::Relaxed) {
            NOT_CHOSEN => self.leave(NOT_CHOSEN, partitions),
            current => current,
        }
    }

    /// Whether `partition` is the one now.
    #[inline]
    pub(crate) fn is(&self, partition: u32) -> bool {
        self.current.load(Ordering::Relaxed) == partition
    }

    /// Leaves `partition` for one of `partitions`, unless another thread has done so, and returns
    /// the partition now chosen.
    #[cold]
    pub(crate) fn leave(&self, partition: u32, partitions: u32) -> u32 {
        let mut random = self.random.lock();
        let current = self.current.load(Ordering::Relaxed);
        if current != partition {
            return current;
        }
        // Below `partitions`, so it fits.
        let next = random.below(u64::from(partitions.max(1))) as u32;
        self.current.store(next, Ordering::Relaxed);
        next
    }

    /// Whether it is time to leave a partition that took `produced` bytes since it was chosen: when
    /// a batch's worth went there and the batch is `complete`, and at twice that in any case,
    /// because lingering may seal batches early, so that none is ever complete at the right moment
    /// (`BuiltInPartitioner.updatePartitionInfo`).
    #[inline]
    pub(crate) fn is_time(produced: usize, batch_bytes: usize, complete: bool) -> bool {
        // With 0 Kafka 3.3 looped forever (KAFKA-14553).
        let batch_bytes = batch_bytes.max(1);
        produced >= batch_bytes && (complete || produced >= batch_bytes.saturating_mul(2))
    }
}

/// No partition has this number: there are fewer.
const NOT_CHOSEN: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    /// Key, hash, and the partition of 3, 4, 10, 12 and 1000.
    type Vector<'a> = (&'a [u8], u32, [u32; 5]);

    #[test]
    fn keys_go_where_kafka_and_librdkafka_put_them() {
        let vectors: [Vector<'_>; 20] = [
            (b"", 0x106e08d9, [0, 1, 1, 9, 681]),
            (b"a", 0xa2d0b27c, [1, 0, 4, 4, 524]),
            (b"ab", 0x12d8262a, [2, 2, 4, 2, 434]),
            (b"abc", 0x1c94221b, [0, 3, 7, 3, 107]),
            (b"21", 0xc5f2f8ec, [0, 0, 0, 0, 340]),
            (b"foobar", 0xd0e47bbe, [0, 2, 6, 6, 166]),
            (b"123456789", 0x9362de66, [0, 2, 6, 6, 566]),
            (&[0x00, 0x20], 0x42decd0e, [0, 2, 2, 6, 742]),
            (b"a-little-bit-long-string", 0xc53b1da0, [2, 0, 2, 8, 112]),
            (b"a-little-bit-longer-string", 0xa768c9c3, [2, 3, 9, 11, 819]),
            (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", 0xfc7d49cd, [2, 1, 7, 5, 677]),
            (b"kafka", 0xd067cf64, [1, 0, 0, 4, 580]),
            (b"giberish123456789", 0x8f552b0c, [2, 0, 0, 8, 820]),
            (b"1234", 0x9fc97b14, [0, 0, 0, 0, 940]),
            (b"234", 0xe7c009ca, [2, 2, 6, 2, 666]),
            (b"34", 0x873930da, [0, 2, 0, 6, 570]),
            (b"4", 0x5a4b5ca1, [1, 1, 3, 1, 353]),
            (b"PreAmbleWillBeRemoved,ThePrePartThatIs", 0x78424f1c, [2, 0, 8, 8, 548]),
            (&[0xa4], 0x15e3842e, [0, 2, 6, 6, 46]),
            (&[0x81; 1000], 0xe0ad67c4, [1, 0, 8, 4, 28]),
        ];
        for (key, hash, partitions) in vectors {
            assert_eq!(murmur2(key), hash, "{key:?}");
            assert_eq!([3, 4, 10, 12, 1000].map(|n| partition_for_key(key, n)), partitions, "{key:?}");
        }
    }

    #[test]
    fn the_signed_hashes_are_those_of_kafkas_own_test() {
        let hashes: [(&[u8], i32); 7] = [
            (b"21", -973932308),
            (b"foobar", -790332482),
            (b"a-little-bit-long-string", -985981536),
            (b"a-little-bit-longer-string", -1486304829),
            (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
            (b"abc", 479470107),
            (b"", 275646681),
        ];
        for (key, hash) in hashes {
            assert_eq!(murmur2(key) as i32, hash);
        }
    }

    #[test]
    fn a_topic_without_partitions_does_not_divide_by_zero() {
        assert_eq!(partition_for_key(b"a", 0), 0);
    }

    #[test]
    fn it_is_time_at_a_complete_batch_and_at_twice_its_size_in_any_case() {
        let times = |complete| [0, 2, 3, 5, 6, 7].map(|produced| Sticky::is_time(produced, 3, complete));
        assert_eq!(times(true), [false, false, true, true, true, true]);
        assert_eq!(times(false), [false, false, false, false, true, true]);
        assert!(!Sticky::is_time(0, 0, true) && Sticky::is_time(1, 0, true));
    }

    #[test]
    fn one_partition_is_always_the_next() {
        let sticky = Sticky::new(9);
        for _ in 0..10 {
            assert_eq!(sticky.current(1), 0);
            assert_eq!(sticky.leave(0, 1), 0);
        }
    }

    #[test]
    fn the_next_partition_is_uniform_and_follows_from_the_seed() {
        let path = |seed| {
            let sticky = Sticky::new(seed);
            let mut at = sticky.current(5);
            let mut path = Vec::new();
            for _ in 0..10_000 {
                path.push(at);
                at = sticky.leave(at, 5);
            }
            path
        };
        assert_eq!(path(1), path(1));
        assert_ne!(path(1), path(2));
        for partition in 0..5 {
            let share = path(1).iter().filter(|p| **p == partition).count();
            assert!(
                (1_800..2_200).contains(&share),
                "partition {partition} was chosen {share} times of 10,000"
            );
        }
    }

    #[test]
    fn only_the_first_to_leave_moves_on() {
        let sticky = Sticky::new(3);
        let first = sticky.current(1000);
        let second = sticky.leave(first, 1000);
        assert_ne!(first, second);
        assert_eq!(sticky.leave(first, 1000), second);
        assert!(sticky.is(second) && !sticky.is(first));
    }
}
