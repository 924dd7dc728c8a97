//! The tests of what the library does, as one program: a module for each behaviour. To run some of them:
//! `cargo test --test behaviour groups::`.
//!
//! A test that looks at its process (threads, descriptors, children, mounts) is a program of its own beside this
//! directory: here other tests run at the same time.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr
)]

#[path = "../common/mod.rs"]
mod common;

mod accept_loss;
mod catalog;
mod closing;
mod compaction;
mod compaction_in_the_background;
mod compaction_producers;
mod crash;
mod crash_at_every_operation;
mod crash_during_compaction;
mod crash_during_retention;
mod crash_during_streams;
mod crash_during_transactions;
mod crash_during_truncation;
mod crash_kill_opening_power_loss;
mod crash_small_workloads;
mod delete_records;
mod disk_budget;
mod dump_dir;
mod epochs_of_openings;
mod erase_stream;
mod every_bit_flipped;
mod expected_offset;
mod fault_in_compaction;
mod fault_matrix;
mod forged_batches;
mod full_disk;
mod golden;
mod group_commit;
mod groups;
mod groups_model;
mod idempotence;
mod journal_that_lost_records;
mod last_n;
mod leftovers;
mod medium_failures;
mod opening;
mod positions_of_another_past;
mod producers_outlive_their_records;
mod projections;
mod raft_like;
mod raw_shipping;
mod reading;
mod recovery;
mod reopen_checks_what_it_syncs;
mod reset_policy;
mod retention;
mod rolling;
mod salvage;
mod second_reader;
mod stream_versions_and_lost_pasts;
mod streams;
mod streams_and_cuts;
mod streams_model;
mod sync_modes;
mod time_lookup;
mod timestamps;
mod topics;
mod transaction_failures;
mod transactions;
mod transactions_property;
mod truncation;
mod verify;
mod wakeups;
mod what_is_synced_and_compared;
