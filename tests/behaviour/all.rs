//! The tests of what the library does, as one program: a module for each behaviour. To run some of
//! them: `cargo test --test behaviour groups::`.
//!
//! It is a package of its own, so that it is not optimized: that took longer than it saved.
//!
//! A test that looks at its process (threads, descriptors, children, mounts) is a program of its
//! own beside this directory: here other tests run at the same time.

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
mod append_to_a_partition;
mod assigned_consumers;
mod async_calls;
mod background_compaction;
mod backup;
mod catalog;
mod checked_once;
mod closing;
mod commit_metadata;
mod compaction;
mod compaction_producers;
mod crash;
mod crash_at_every_operation;
mod crash_during_compaction;
mod crash_during_retention;
mod crash_during_streams;
mod crash_during_transactions;
mod crash_during_truncation;
mod crash_journal_replaced;
mod crash_kill_opening_power_loss;
mod crash_small_workloads;
mod damage_beside_good_partitions;
mod delete_offsets;
mod delete_records;
mod detached_commits;
mod detached_sends;
mod disk_budget;
mod dump_dir;
mod erase_stream;
mod every_bit_flipped;
mod expected_offset;
mod fault_in_compaction;
mod fault_matrix;
mod few_descriptors;
mod first_seek;
mod foreign_broker;
mod forged_batches;
mod full_buffer;
mod full_disk;
mod golden;
mod group_commit;
mod group_lag;
mod groups;
mod groups_model;
mod handles_and_panics;
mod idempotence;
mod io_errors;
mod irregular_files;
mod journal_loss;
mod last_n;
mod leftover_files;
mod liveness;
mod long_streams;
mod many_partitions;
mod names_that_collide;
mod natural_calls;
mod old_timestamps;
mod one_by_one;
mod opening;
mod opening_epochs;
mod order_across_retries;
mod outbox_after_growth;
mod pending_timeout;
mod positions_after_loss;
mod positions_of_a_group;
mod producer_snapshots;
mod projection_step_size;
mod projections;
mod projections_with_state;
mod raft_log;
mod read_only;
mod read_only_model;
mod reading;
mod rebalance_protocols;
mod record_limits;
mod recovery;
mod reopen;
mod replication;
mod reset_policy;
mod retention;
mod rolling;
mod salvage;
mod second_reader;
mod seeded_bugs;
mod seeded_edits;
mod send_all_again;
mod settings_read_back;
mod steps_that_end_early;
mod stream_versions_after_loss;
mod streams;
mod streams_and_truncation;
mod streams_model;
mod successors;
mod sync_modes;
mod time_lookup;
mod timestamps;
mod topics;
mod topics_that_come_later;
mod transaction_failures;
mod transaction_order;
mod transaction_size;
mod transactions;
mod transactions_at_once;
mod transactions_property;
mod truncation;
mod user_code;
mod verify;
mod waiting_callers;
mod wakeups;
mod wakeups_of_feeds_and_projectors;
mod where_a_group_starts;
mod zero;
mod zeros_ahead;
