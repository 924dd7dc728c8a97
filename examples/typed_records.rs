//! Records of a Rust type, as JSON: sent, read, and what happens to one that is not of the type.
//!
//!     cargo run --release --example typed_records --features serde
//!
//! `Topic::typed` is a view of a topic with values of one type. `Topic::typed_with` takes another
//! codec. The records stay ordinary ones: other readers see bytes.

use std::time::Duration;

use quipu::{Broker, Error, Record, Result, TopicConfig, Typed};
use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Order {
    customer: String,
    cents: u64,
    /// Added later: orders of an older program have none.
    #[serde(default)]
    note: Option<String>,
}

impl Order {
    fn new(customer: &str, cents: u64) -> Order {
        Order { customer: customer.to_string(), cents, note: None }
    }
}

fn main() -> Result<()> {
    let broker = Broker::in_memory()?;
    let orders: Typed<Order> = broker.ensure_topic("orders", TopicConfig::new())?.typed();
    let producer = broker.producer();
    for (customer, cents) in [("ada", 4200), ("ben", 700)] {
        orders.send(&producer, customer, &Order::new(customer, cents))?.detach();
    }
    // An older program and another one wrote these.
    producer.send("orders", Record::new(r#"{ "customer": "cleo", "cents": 5 }"#).key("cleo"))?.detach();
    producer.send("orders", Record::new("not JSON").key("dan"))?.detach();
    producer.send("orders", Record::tombstone("ben"))?.detach();
    producer.flush()?;

    let mut consumer = broker.consumer("billing").subscribe("orders")?;
    let records = consumer.poll(Duration::from_secs(1))?;
    let (mut read, mut removed, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    for (record, order) in orders.values(&records) {
        match order {
            Ok(Some(order)) => read.push(order),
            Ok(None) => removed.push(record.key_str().unwrap_or_default().to_string()),
            // One bad record fails itself, and not those after it. The error names its position.
            Err(Error::Decode { position, source, .. }) => {
                println!("skipped {position}: {source}");
                refused.push(position);
            }
            Err(e) => return Err(e),
        }
    }
    consumer.commit(&records)?;

    assert_eq!(read, [Order::new("ada", 4200), Order::new("ben", 700), Order::new("cleo", 5)]);
    assert_eq!(removed, ["ben"]);
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0].offset, 3);
    // Without the view: one record.
    let order: Order = records.iter().next().unwrap().json()?;
    assert_eq!(order.cents, 4200);
    println!("ok: {} orders, 1 removed, 1 refused at {}", read.len(), refused[0]);
    Ok(())
}
