//! One file a contender.

#[cfg(feature = "commitlog")]
mod commitlog;
#[cfg(feature = "fjall")]
mod fjall;
mod floor;
mod floor_lz4;
#[cfg(feature = "kafko")]
mod kafko;
#[cfg(feature = "lmdb")]
mod lmdb;
#[cfg(feature = "nano-wal")]
mod nano_wal;
#[cfg(feature = "okaywal")]
mod okaywal;
pub mod quipu;
#[cfg(feature = "raft-engine")]
mod raft_engine;
#[cfg(feature = "redb")]
mod redb;
#[cfg(feature = "seglog")]
mod seglog;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(feature = "umadb")]
mod umadb;
#[cfg(feature = "walrus")]
mod walrus;
#[cfg(feature = "yaque")]
mod yaque;

pub use self::floor::map as floor_map;
use crate::contender::{Contender, Need};

/// The simplest log that works is a contender of this name.
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

/// The card of the contender of this name.
pub fn card(name: &str) -> Option<Card> {
    cards().into_iter().find(|card| card.name == name)
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
    #[cfg(feature = "commitlog")]
    commitlog::Peer,
    #[cfg(feature = "yaque")]
    yaque::Peer,
    #[cfg(feature = "okaywal")]
    okaywal::Peer,
    #[cfg(feature = "raft-engine")]
    raft_engine::Peer,
    #[cfg(feature = "seglog")]
    seglog::Peer,
    #[cfg(feature = "nano-wal")]
    nano_wal::Peer,
    #[cfg(feature = "lmdb")]
    lmdb::Peer,
    #[cfg(feature = "walrus")]
    walrus::Peer,
    #[cfg(feature = "kafko")]
    kafko::Peer,
    #[cfg(feature = "fjall")]
    fjall::Peer,
    #[cfg(feature = "redb")]
    redb::Peer,
    #[cfg(feature = "sqlite")]
    sqlite::Peer,
    #[cfg(feature = "umadb")]
    umadb::Peer,
}

/// Does the work with the contender of this name.
pub fn visit<V: Visitor>(name: &str, lz4: bool, visitor: V) -> V::Output {
    if name == FLOOR && lz4 {
        return visitor.visit::<floor_lz4::FloorLz4>();
    }
    visit_named(name, visitor)
}
