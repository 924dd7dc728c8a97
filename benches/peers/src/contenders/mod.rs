//! One file a contender.

#[cfg(feature = "peers")]
mod commitlog;
mod floor;
mod floor_lz4;
#[cfg(feature = "peers")]
mod lmdb;
#[cfg(feature = "peers")]
mod nano_wal;
#[cfg(feature = "peers")]
mod okaywal;
pub mod quipu;
#[cfg(feature = "peers")]
mod raft_engine;
#[cfg(feature = "peers")]
mod seglog;
#[cfg(feature = "peers")]
mod sqlite;
#[cfg(feature = "peers")]
mod yaque;

use crate::contender::{Contender, Need};

/// The lower bound is a contender of this name.
pub const FLOOR: &str = "floor";
pub const QUIPU: &str = "quipu";

/// The name of a contender, its description, and the calls that it has.
pub struct Card {
    pub name: &'static str,
    pub about: &'static str,
    can: &'static [Need],
}

impl Card {
    fn of<C: Contender>() -> Self {
        Card { name: C::NAME, about: C::ABOUT, can: C::CAN }
    }

    pub fn can(&self, needs: &[Need]) -> bool {
        needs.iter().all(|need| self.can.contains(need))
    }
}

/// Work that is the same for every contender.
pub trait Visitor {
    type Output;
    fn visit<C: Contender>(self) -> Self::Output;
}

macro_rules! contenders {
    ($($(#[$attribute:meta])* $contender:ty,)*) => {
        /// All contenders, in the order of the tables.
        pub fn cards() -> Vec<Card> {
            vec![$($(#[$attribute])* Card::of::<$contender>(),)*]
        }

        fn visit_named<V: Visitor>(name: &str, visitor: V) -> V::Output {
            $($(#[$attribute])* if name == <$contender>::NAME {
                return visitor.visit::<$contender>();
            })*
            panic!("there is no contender {name:?}")
        }
    };
}

contenders! {
    floor::Floor,
    quipu::Quipu,
    #[cfg(feature = "peers")]
    commitlog::Peer,
    #[cfg(feature = "peers")]
    yaque::Peer,
    #[cfg(feature = "peers")]
    okaywal::Peer,
    #[cfg(feature = "peers")]
    raft_engine::Peer,
    #[cfg(feature = "peers")]
    seglog::Peer,
    #[cfg(feature = "peers")]
    nano_wal::Peer,
    #[cfg(feature = "peers")]
    lmdb::Peer,
    #[cfg(feature = "peers")]
    sqlite::Peer,
}

/// Does the work with the contender of this name.
pub fn visit<V: Visitor>(name: &str, lz4: bool, visitor: V) -> V::Output {
    if name == FLOOR && lz4 {
        return visitor.visit::<floor_lz4::FloorLz4>();
    }
    visit_named(name, visitor)
}
