//! Where do locks, condition variables, atomics and threads come from?
//!
//! From here and nowhere else (held by `tests/architecture`), so that one change in one file puts
//! the whole engine under a model checker. The locks have ranks: [`Rank`] is the order in which a
//! thread may take them.

mod bell;
mod rank;
mod ranked;

pub(crate) use std::sync::atomic::{
    AtomicBool, AtomicI64, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};
pub(crate) use std::sync::{Arc, OnceLock, Weak};
pub(crate) use std::thread;

pub(crate) use self::bell::Bell;
pub(crate) use self::rank::Rank;
pub(crate) use self::ranked::{
    Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, about_to_call_user_code,
    about_to_call_user_code_with,
};
