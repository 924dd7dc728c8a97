//! An outbox: rows that a database commits together with its own changes are passed on to a topic,
//! each once, although the relay dies between sending a row and deleting it.
//!
//!     cargo run --release --example outbox
//!
//! The database and the log cannot commit together. So the application writes an event into a table
//! of its database, in the transaction of the change. A relay sends the rows of that table and
//! deletes those that are stored. If it dies in between, the next one sends some rows again. The
//! row's id as the record's sequence makes that harmless: the topic has the row already.

use std::collections::BTreeMap;
use std::time::Duration;

use quipu::{Broker, Error, Pending, ProducerConfig, Record, Result, TopicConfig};

/// Stands for a table `outbox(id integer primary key, customer text, event text)`. Ids only rise,
/// and a row with a smaller id must not be committed after one with a greater.
type Outbox = BTreeMap<u64, (String, String)>;

/// Where a relay dies, for the example.
enum Dies {
    BeforeSending,
    BeforeDeleting,
    No,
}

/// Passes on at most `limit` rows.
fn relay(broker: &Broker, outbox: &mut Outbox, limit: usize, dies: Dies) -> Result<()> {
    if matches!(dies, Dies::BeforeSending) {
        return Ok(());
    }
    // A relay that is still alive elsewhere is fenced by the next one of its name.
    let producer = broker.producer_with(ProducerConfig::new().name("outbox-relay"))?;
    let mut rows = Vec::new();
    for (id, (customer, event)) in outbox.iter().take(limit) {
        let record = Record::new(event).key(customer).sequence(*id);
        rows.push((*id, producer.send("events", record)));
    }
    if matches!(dies, Dies::BeforeDeleting) {
        return producer.flush(); // stored, and nobody has noted it
    }
    for (id, sent) in rows {
        match sent.and_then(Pending::wait) {
            // An earlier relay has sent it: it returns the first receipt, or this error where the
            // log no longer knows which one that was.
            Ok(_) | Err(Error::DuplicateSequence { .. }) => drop(outbox.remove(&id)),
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn main() -> Result<()> {
    let broker = Broker::in_memory()?;
    broker.ensure_topic("events", TopicConfig::new().partitions(4))?;
    let mut outbox = Outbox::new();
    for id in 1..=1000 {
        // BEGIN; UPDATE orders ..; INSERT INTO outbox ..; COMMIT
        outbox.insert(id, (format!("customer-{}", id % 7), format!("order {id} paid")));
    }

    let mut deaths = 0;
    while !outbox.is_empty() {
        deaths += 1;
        relay(&broker, &mut outbox, 150, Dies::BeforeDeleting)?;
        relay(&broker, &mut outbox, 100, Dies::BeforeSending)?;
        relay(&broker, &mut outbox, 100, Dies::No)?;
    }

    let mut consumer = broker.consumer("check").subscribe("events")?;
    let mut events = BTreeMap::<String, Vec<String>>::new();
    loop {
        let records = consumer.poll(Duration::ZERO)?;
        if records.is_empty() {
            break;
        }
        for record in &records {
            let (customer, event) = (record.key_str().unwrap(), record.value_str().unwrap());
            events.entry(customer.to_string()).or_default().push(event.to_string());
        }
    }
    for (n, (customer, events)) in events.iter().enumerate() {
        let ids = (1..=1000).filter(|id| id % 7 == n as u64);
        let expected: Vec<_> = ids.map(|id| format!("order {id} paid")).collect();
        assert_eq!(events, &expected, "{customer}: each event once, in the order of the rows");
    }
    assert_eq!(events.len(), 7);
    println!("ok: 1000 rows passed on once, by relays of which {deaths} died after sending");
    Ok(())
}
